//! What goes through, both ways, unchanged but for what belongs to one connection.

use super::*;

/// What the application is told, as its answer.
fn echoing() -> Scene {
    let mut scene = Scene::new(1);
    scene.plays(0, |_, mut stream| async move {
        while let Some(text) = request(&mut stream).await {
            let length = text.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}<end>");
            stream
                .write_all(answer.replace("<end>", "").as_bytes())
                .await
                .unwrap();
        }
    });
    scene
}

#[tokio::test]
async fn requests_of_all_clients_share_what_connections_are_kept() {
    let scene = Scene::saying(OK);
    for client in &mut scene.clients(3) {
        for _ in 0..3 {
            client.ok().await;
        }
    }
    assert_eq!(scene.accepted(), 1);
}

#[tokio::test]
async fn the_application_sees_the_path_as_it_was_typed_and_the_host() {
    let scene = echoing();
    let mut client = scene.client();
    client
        .send("GET /a/../b%2Fc?d=%20&e HTTP/1.1\r\nHost: shop.example\r\nX-A: 1\r\n\r\n")
        .await;
    let told = client.until("proto=http").await;
    assert!(
        told.contains("GET /a/../b%2Fc?d=%20&e HTTP/1.1\r\n"),
        "{told}"
    );
    assert!(told.contains("host: shop.example\r\n"), "{told}");
    assert!(told.contains("x-a: 1\r\n"), "{told}");
}

#[tokio::test]
async fn a_body_is_passed_on_in_the_length_or_the_chunks_it_came_in() {
    let scene = echoing();
    let mut client = scene.client();
    client
        .send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello")
        .await;
    let told = client.until("hello").await;
    assert!(told.contains("content-length: 5\r\n"), "{told}");
    client
        .send(
            "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        )
        .await;
    let told = client.until("0\r\n\r\n").await;
    assert!(told.contains("3\r\nabc\r\n"), "{told}");
    assert_eq!(
        scene.accepted(),
        2,
        "a request with a body has a new connection"
    );
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it_from_us() {
    let scene = echoing();
    let mut client = scene.client();
    client
        .send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
        .await;
    let word = client.until("\r\n\r\n").await;
    assert_eq!(word, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello").await;
    let told = client.until("hello").await;
    assert!(!told.contains("expect"), "{told}");
}

#[tokio::test]
async fn trailers_go_both_ways() {
    let mut scene = Scene::new(1);
    scene.plays(0, |_, mut stream| async move {
        let text = request(&mut stream).await.unwrap();
        let came = text.contains("0\r\nx-sum: 7\r\n");
        let sum = if came { "seen" } else { "lost" };
        let answer = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
             2\r\nok\r\n0\r\nx-sum: {sum}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let mut client = scene.client();
    client
        .send(
            "POST / HTTP/1.1\r\nhost: x\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum\r\n\
             transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 7\r\n\r\n",
        )
        .await;
    let answer = client.until("0\r\nx-sum: seen\r\n\r\n").await;
    assert!(answer.contains("trailer: x-sum\r\n"), "{answer}");
}

#[tokio::test]
async fn an_answer_to_head_says_a_length_and_has_none() {
    let scene = Scene::saying("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
    let mut client = scene.client();
    client.send("HEAD / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.contains("content-length: 1000\r\n"), "{head}");
}

#[tokio::test]
async fn a_trailer_does_not_say_who_the_client_is() {
    let scene = echoing();
    let mut client = scene.client();
    client
        .send(
            "POST / HTTP/1.1\r\nhost: x\r\ntrailer: x-forwarded-for, x-real-ip, x_sum, x-sum\r\n\
             transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-forwarded-for: 192.0.2.6\r\n\
             x-real-ip: 192.0.2.6\r\nx_sum: 192.0.2.6\r\nx-sum: 7\r\n\r\n",
        )
        .await;
    let told = client.until("x-sum: 7\r\n\r\n").await;
    assert!(!told.contains("192.0.2.6"), "{told}");
}

#[tokio::test]
async fn an_answer_may_have_many_fields() {
    let mut scene = Scene::new(1);
    scene.plays(0, |_, mut stream| async move {
        request(&mut stream).await;
        let fields: Vec<_> = (0..250).map(|n| format!("x-{n}: {n}\r\n")).collect();
        let answer = OK.replace("\r\n\r\n", &format!("\r\n{}\r\n", fields.concat()));
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let mut client = scene.client();
    client.send(GET).await;
    let answer = client.until("\r\n\r\nok").await;
    assert!(answer.contains("x-249: 249\r\n"), "{answer}");
}

#[tokio::test]
async fn an_old_application_that_closes_after_every_answer_costs_the_client_nothing() {
    let mut scene = Scene::new(1);
    scene.plays(0, |_, mut stream| async move {
        request(&mut stream).await.unwrap();
        let answer = b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nall of it";
        stream.write_all(answer).await.unwrap();
    });
    let mut client = scene.client();
    for _ in 0..2 {
        client.send(GET).await;
        let answer = client.until("0\r\n\r\n").await;
        assert!(answer.contains("all of it"), "{answer}");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(!answer.contains("connection"), "{answer}");
    }
    assert_eq!(scene.accepted(), 2);
}

const SWITCH: &str =
    "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";

/// What the client still sends is not swallowed.
#[tokio::test]
async fn a_tunnel_to_an_application_that_has_gone_ends() {
    let mut scene = Scene::new(1);
    scene.plays(0, |_, mut stream| async move {
        request(&mut stream).await.unwrap();
        stream.write_all(SWITCHED.as_bytes()).await.unwrap();
    });
    let mut client = scene.client();
    client.send(SWITCH).await;
    client.rest().await;
    let sends = async {
        while client.0.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, sends).await.expect("the tunnel stays");
}

/// Node, for one, leaves its side open when the client's has ended.
#[tokio::test]
async fn a_tunnel_whose_client_has_ended_does_not_wait_for_the_application() {
    let mut scene = Scene::new(1);
    scene.plays(0, |_, mut stream| async move {
        request(&mut stream).await.unwrap();
        stream.write_all(SWITCHED.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
        drop(stream);
    });
    let mut client = scene.client();
    client.send(SWITCH).await;
    client.until("\r\n\r\n").await;
    client.0.shutdown().await.unwrap();
    let rest = timeout(SOON, client.rest()).await;
    assert_eq!(rest.expect("the tunnel stays"), "");
}

/// Of `POST`, when the head is there: the beginning of the answer, and the end after the last byte.
async fn answers_early(mut stream: UnixStream) {
    let mut all = Vec::new();
    let mut read_to = async |end: &[u8], stream: &mut UnixStream| {
        while !all.ends_with(end) {
            if !matches!(stream.read_buf(&mut all).await, Ok(1..)) {
                return false;
            }
        }
        true
    };
    assert!(read_to(b"\r\n\r\n", &mut stream).await);
    let begins = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegin\r\n";
    stream.write_all(begins.as_bytes()).await.unwrap();
    if read_to(b"z", &mut stream).await {
        let _ = stream.write_all(b"3\r\nend\r\n0\r\n\r\n").await;
    }
}

const SLOW_POST: &str = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 13\r\n\r\n";

#[tokio::test]
async fn an_answer_that_waits_for_a_slow_request_does_not_stand_still() {
    let mut scene = Scene::new(1);
    scene.app.stall_timeout = Duration::from_secs(1);
    scene.plays(0, |_, stream| answers_early(stream));
    let mut client = scene.client();
    client.send(SLOW_POST).await;
    client.until("begin").await;
    for _ in 0..12 {
        tokio::time::sleep(scene.app.stall_timeout / 4).await;
        client.send("x").await;
    }
    client.send("z").await;
    client.until("end").await;
}

#[tokio::test]
async fn a_client_that_leaves_in_its_request_is_not_the_applications_fault() {
    let mut scene = Scene::new(1);
    let (gone, all_gone) = tokio::sync::oneshot::channel();
    let gone = std::sync::Mutex::new(Some(gone));
    scene.plays(0, move |_, stream| {
        let gone = gone.lock().unwrap().take();
        async move {
            answers_early(stream).await;
            gone.unwrap().send(()).unwrap();
        }
    });
    let mut client = scene.client();
    client.send(SLOW_POST).await;
    client.until("begin").await;
    drop(client);
    timeout(SOON, all_gone).await.unwrap().unwrap();
    assert_eq!(scene.tally.broken_off.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_websocket_is_a_tunnel_to_its_end() {
    let mut scene = Scene::new(1);
    scene.plays(0, |_, mut stream| async move {
        let text = request(&mut stream).await.unwrap();
        assert!(
            text.contains("connection: upgrade\r\nupgrade: websocket\r\n"),
            "{text}"
        );
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n\
                  upgrade: websocket\r\nsec-websocket-accept: k\r\n\r\nfirst",
            )
            .await
            .unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(&word).await.unwrap();
    });
    let mut client = scene.client();
    client
        .send(
            "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-key: k\r\n\r\n",
        )
        .await;
    let head = client.until("first").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: k\r\n"), "{head}");
    client.send("ping").await;
    assert_eq!(client.rest().await, "ping");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_application_up_and_not_our_memory() {
    let mut scene = Scene::new(1);
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    scene.app.stall_timeout = Duration::from_secs(60);
    scene.plays(0, move |_, mut stream| {
        let told = told.clone();
        async move {
            request(&mut stream).await;
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n";
            stream.write_all(head).await.unwrap();
            let chunk = vec![b'x'; 64 * 1024];
            while stream.write_all(&chunk).await.is_ok() {
                let _ = told.send(chunk.len());
            }
        }
    });
    let mut client = scene.client();
    client.send(GET).await;
    client.until("\r\n\r\n").await;
    let mut flood = 0;
    while let Ok(Some(n)) = timeout(Duration::from_millis(300), hears.recv()).await {
        flood += n;
        assert!(flood < 8 << 20, "{flood} bytes are somewhere");
    }
    assert!(flood > 0);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_with_it() {
    let mut scene = Scene::new(1);
    scene.app.answer_timeout = SOON;
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    scene.plays(0, move |_, mut stream| {
        let told = told.clone();
        async move {
            request(&mut stream).await;
            let _ = told.send("read");
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
            let _ = told.send("gone");
        }
    });
    let mut client = scene.client();
    client.send(GET).await;
    assert_eq!(timeout(SOON, hears.recv()).await.unwrap(), Some("read"));
    drop(client);
    assert_eq!(timeout(SOON, hears.recv()).await.unwrap(), Some("gone"));
}

#[tokio::test]
async fn connect_is_refused() {
    let scene = Scene::saying(OK);
    let mut client = scene.client();
    client
        .send("CONNECT other:443 HTTP/1.1\r\nhost: other:443\r\n\r\n")
        .await;
    let answer = client.until("\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request"), "{answer}");
    assert_eq!(scene.accepted(), 0);
}
