//! An application that is wrong: bounded, told, and nobody else's answer.

use super::*;

/// What an attacker lets an application say.
const EVIL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL";

/// gunicorn 23 writes the body of an answer to HEAD, after the head and on its own.
#[tokio::test]
async fn a_body_after_an_answer_that_has_none_is_nobodys_answer() {
    for (method, status) in [
        ("HEAD", "200 OK"),
        ("GET", "204 No Content"),
        ("GET", "304 Not Modified"),
    ] {
        let mut scene = Scene::new(1);
        scene.plays(0, move |number, mut stream| async move {
            request(&mut stream).await;
            let head = format!("HTTP/1.1 {status}\r\n\r\n");
            let first = if number == 0 { &head } else { OK };
            stream.write_all(first.as_bytes()).await.unwrap();
            if request(&mut stream).await.is_some() {
                stream.write_all(EVIL.as_bytes()).await.unwrap();
            }
        });
        let mut client = scene.client();
        client
            .send(&format!("{method} / HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        let head = client.until("\r\n\r\n").await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        client.ok().await;
    }
}

/// Nothing wakes us up between what it says and our next request.
#[tokio::test]
async fn what_comes_on_a_kept_connection_ends_it() {
    let mut scene = Scene::new(1);
    let (gives, mut kept) = tokio::sync::mpsc::unbounded_channel();
    scene.plays(0, move |_, mut stream| {
        let gives = gives.clone();
        async move {
            request(&mut stream).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
            gives.send(stream).unwrap();
        }
    });
    let front = Arc::new(Front::new(&scene.context()));
    let ask = async || {
        let request = Request::get("/").body(Body::empty()).unwrap();
        let answer = answer(Arc::clone(&front), request).await;
        to_bytes(answer.into_body(), 100).await.unwrap()
    };
    assert_eq!(ask().await, "ok");
    let stream = kept.recv().await.unwrap();
    stream.try_write(EVIL.as_bytes()).unwrap();
    assert_eq!(ask().await, "ok");
    assert_eq!(scene.accepted(), 2);
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_a_bad_answer() {
    let scene = Scene::saying("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n");
    assert_eq!(scene.client().status().await, "HTTP/1.1 502 Bad Gateway");
}

#[tokio::test]
async fn an_answer_in_a_coding_that_nobody_undoes_is_a_502() {
    let scene = Scene::saying(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    );
    assert_eq!(scene.client().status().await, "HTTP/1.1 502 Bad Gateway");
}

/// There is nothing to undo (RFC 9112, 6.1: it tells what GET would have got).
#[tokio::test]
async fn what_has_no_body_is_in_no_coding() {
    let scene = Scene::saying("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n");
    let mut client = scene.client();
    client.send("HEAD / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
}

#[tokio::test]
async fn garbage_is_a_502() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 999999 what\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ] {
        let scene = Scene::saying(garbage);
        let status = scene.client().status().await;
        assert_eq!(status, "HTTP/1.1 502 Bad Gateway", "{garbage}");
        assert_eq!(scene.accepted(), 1, "asked again after {garbage}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_the_clients_connection_so_that_it_knows() {
    for (answer, whole) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", "abc"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "3\r\nabc\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
            "3\r\nabc\r\n",
        ),
    ] {
        let mut scene = Scene::new(1);
        scene.plays(0, move |_, mut stream| async move {
            request(&mut stream).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let mut client = scene.client();
        client.send(GET).await;
        let got = client.rest().await;
        assert!(got.starts_with("HTTP/1.1 200 OK"), "{got}");
        assert!(got.ends_with(whole), "{got}");
    }
}

#[tokio::test]
async fn what_comes_after_the_announced_length_is_nobodys_answer() {
    let scene =
        Scene::saying("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 EVIL\r\n\r\n");
    let mut client = scene.client();
    for _ in 0..3 {
        client.send(GET).await;
        let answer = client.until("ok").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(!answer.contains("EVIL"), "{answer}");
    }
}

#[tokio::test]
async fn one_that_hangs_before_its_answer_is_a_504() {
    let mut scene = Scene::new(1);
    scene.app.answer_timeout = QUICK;
    scene.plays(0, |_, mut stream| async move {
        request(&mut stream).await;
        // The front lets go of it.
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    });
    let status = scene.client().status().await;
    assert_eq!(status, "HTTP/1.1 504 Gateway Timeout");
}

#[tokio::test]
async fn one_that_hangs_in_its_answer_ends_it() {
    let mut scene = Scene::new(1);
    scene.app.stall_timeout = QUICK;
    scene.plays(0, |_, mut stream| async move {
        request(&mut stream).await;
        let begin = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
        stream.write_all(begin).await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    });
    let mut client = scene.client();
    client.send(GET).await;
    assert!(client.rest().await.ends_with("abc"));
}

#[tokio::test]
async fn one_that_never_reads_the_request_takes_no_memory_and_is_a_504() {
    let mut scene = Scene::new(1);
    scene.app.answer_timeout = QUICK;
    scene.plays(0, |_, stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    });
    let mut client = scene.client();
    client
        .send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n")
        .await;
    let (mut reader, mut writer) = client.0.into_split();
    let upload = tokio::spawn(async move {
        let chunk = vec![b'x'; 64 * 1024];
        let mut sent = 0;
        while writer.write_all(&chunk).await.is_ok() {
            sent += chunk.len();
        }
        sent
    });
    let mut head = vec![0; 64];
    timeout(SOON, reader.read_exact(&mut head))
        .await
        .unwrap()
        .unwrap();
    assert!(head.starts_with(b"HTTP/1.1 504 "));
    drop(reader);
    upload.abort();
    if let Ok(sent) = upload.await {
        assert!(sent < 4 << 20, "{sent} bytes are somewhere");
    }
}
