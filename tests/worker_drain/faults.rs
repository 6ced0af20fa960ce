//! What one bad request, or one bad handler, may cost: itself.

use http::StatusCode;

use crate::client::Client;
use crate::worker::{TestWorker, config};

#[tokio::test]
async fn a_request_that_does_not_say_clearly_whom_it_is_for_is_answered_with_400() {
    let worker = TestWorker::start().await;
    for head in [
        "GET /hello HTTP/1.1\r\n",
        "GET /hello HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
        "GET /hello HTTP/1.0\r\nHost: a\r\nHost: b\r\n",
        "GET /hello HTTP/1.1\r\nHost:\r\n",
        "GET /hello HTTP/1.1\r\nHost: a/b\r\n",
        "GET http://a/hello HTTP/1.1\r\n",
        "GET evil.com:80 HTTP/1.1\r\nHost: a\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n",
        "CONNECT /hello HTTP/1.1\r\nHost: a\r\n",
        "POST /upload HTTP/1.1\r\nContent-Length: 3\r\n",
        // Nor where it ends.
        "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n",
        "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n",
        "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let mut client = Client::connect(&worker).await;
        client.send(format!("{head}\r\n")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.says_close()), (400, true), "{head}");
        assert_eq!(answer.text(), "400 Bad Request\n");
        assert!(client.at_eof().await, "{head}");
    }
    let mut client = Client::connect(&worker).await;
    for head in [
        "GET http://a/hello HTTP/1.1\r\nHost: a\r\n",
        "GET /hello HTTP/1.1\r\nHost: [::1]:80\r\n",
        "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n",
    ] {
        client.send(format!("{head}\r\n")).await;
        assert_eq!(client.answer().await.status, 200, "{head}");
    }
    let mut old = Client::connect(&worker).await;
    old.send("GET /hello HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.answer().await.status, 200);
}

#[tokio::test]
async fn a_handler_that_panics_costs_its_own_request_and_nothing_else() {
    for threads in [1, 2] {
        let mut config = config();
        config.threads = threads;
        let mut worker = TestWorker::with(config).await;
        let mut other = Client::connect(&worker).await;
        other
            .send("GET /slow/300 HTTP/1.1\r\nHost: t\r\n\r\n")
            .await;
        let mut client = Client::connect(&worker).await;
        for _ in 0..3 {
            assert_eq!(client.get("/panic").await.status, 500);
            assert_eq!(client.get("/hello").await.status, 200);
            let post = "POST /panic HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc";
            client.send(post).await;
            assert_eq!(client.answer().await.status, 500);
        }
        // Half of an answer is none: the client sees that its end is missing.
        let mut later = Client::connect(&worker).await;
        later
            .send("GET /panic-later HTTP/1.1\r\nHost: t\r\n\r\n")
            .await;
        assert!(later.head().await.contains("200"));
        let mut rest = Vec::new();
        let end = tokio::io::AsyncReadExt::read_to_end(&mut later.stream, &mut rest).await;
        assert!(end.is_err() || !rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
        assert_eq!(other.answer().await.text(), "after 300");
        drop((client, other, later));
        worker.drain(None).await;
        assert_eq!(worker.drained().await.connections, 0);
    }
}

#[tokio::test]
async fn over_http2_a_handler_that_panics_costs_its_stream() {
    let worker = TestWorker::start().await;
    let stream = tokio::net::TcpStream::connect(worker.address)
        .await
        .unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut client, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut ask = |path: &str| {
        let request = http::Request::get(format!("http://t{path}"));
        client.send_request(request.body(axum::body::Body::empty()).unwrap())
    };
    let slow = ask("/slow/200");
    assert_eq!(
        ask("/panic").await.unwrap().status(),
        StatusCode::INTERNAL_SERVER_ERROR
    );
    let later = ask("/panic-later").await.unwrap();
    assert!(
        axum::body::to_bytes(axum::body::Body::new(later.into_body()), 1000)
            .await
            .is_err()
    );
    assert_eq!(slow.await.unwrap().status(), StatusCode::OK);
    assert_eq!(ask("/hello").await.unwrap().status(), StatusCode::OK);
}
