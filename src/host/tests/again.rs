//! What is not there for a moment: who waits, and what goes out once more.

use super::*;

#[tokio::test]
async fn a_connection_that_was_closed_while_it_was_kept_is_not_a_502() {
    let mut scene = Scene::new(1);
    scene.plays(0, |_, mut stream| async move {
        request(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
    });
    let mut client = scene.client();
    for _ in 0..20 {
        client.ok().await;
    }
    assert_eq!(scene.accepted(), 20);
}

#[tokio::test]
async fn a_request_that_was_never_read_goes_out_again() {
    let mut scene = Scene::new(1);
    // The kept connection is closed the moment the next request is there, unread.
    scene.plays(0, |number, mut stream| async move {
        request(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
        if number == 0 {
            stream.readable().await.unwrap();
            while stream.try_read(&mut []).is_err() {
                stream.readable().await.unwrap();
            }
        } else {
            request(&mut stream).await;
        }
    });
    let mut client = scene.client();
    for _ in 0..2 {
        client.ok().await;
    }
    assert_eq!(scene.accepted(), 2);
}

#[tokio::test]
async fn a_request_that_was_read_never_goes_out_again() {
    for request_text in [
        "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab",
    ] {
        let mut scene = Scene::new(1);
        scene.plays(0, |_, mut stream| async move {
            request(&mut stream).await;
        });
        let mut client = scene.client();
        client.send(request_text).await;
        let answer = client.until("\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway"), "{answer}");
        assert_eq!(scene.accepted(), 1);
    }
}

#[tokio::test]
async fn a_body_that_was_begun_never_goes_out_again() {
    let mut scene = Scene::new(1);
    // Unread bytes are left: of a request with a body that proves nothing.
    scene.plays(0, |_, mut stream| async move {
        stream.read_exact(&mut [0; 60]).await.unwrap();
    });
    let mut client = scene.client();
    client
        .send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200\r\n\r\n")
        .await;
    client.send(&"x".repeat(200)).await;
    let answer = client.until("\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway"), "{answer}");
    assert_eq!(scene.accepted(), 1);
}

/// That something of a request was unread does not say that nothing was read.
#[tokio::test]
async fn what_a_new_connection_was_closed_on_goes_out_again_once_if_it_may_be_repeated() {
    for (method, times) in [("GET", 2), ("DELETE", 2), ("POST", 1)] {
        let mut scene = Scene::new(1);
        scene.plays(0, |_, mut stream| async move {
            stream.read_exact(&mut [0; 10]).await.unwrap();
        });
        let mut client = scene.client();
        client
            .send(&format!("{method} / HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        let answer = client.until("\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway"), "{answer}");
        assert_eq!(scene.accepted(), times, "{method}");
    }
}

/// As many as are kept: each of them could have begun.
#[tokio::test]
async fn what_was_unread_on_one_kept_connection_is_not_tried_on_the_next_one() {
    let mut scene = Scene::new(1);
    let begun = Arc::new(AtomicUsize::new(0));
    let all = Arc::new(tokio::sync::Barrier::new(4));
    let count = Arc::clone(&begun);
    scene.plays(0, move |number, mut stream| {
        let (count, all) = (Arc::clone(&count), Arc::clone(&all));
        async move {
            request(&mut stream).await;
            if number < 4 {
                all.wait().await;
            }
            stream.write_all(OK.as_bytes()).await.unwrap();
            if stream.read_exact(&mut [0; 10]).await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut clients = scene.clients(4);
    for client in &mut clients {
        client.send(GET).await;
    }
    for client in &mut clients {
        client.until("ok").await;
    }
    clients[0].ok().await;
    assert_eq!(begun.load(Ordering::Relaxed), 1);
    assert_eq!(scene.accepted(), 5);
}

#[tokio::test]
async fn clients_wait_for_an_application_that_starts_again() {
    let mut scene = Scene::new(1);
    let mut client = scene.client();
    let asked = tokio::spawn(async move { client.status().await });
    tokio::task::yield_now().await;
    scene.plays(0, |_, mut stream| async move {
        request(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
    });
    assert_eq!(asked.await.unwrap(), "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn one_that_does_not_come_back_is_a_503_that_says_when_to_ask_again() {
    let mut scene = Scene::new(1);
    scene.app.connect_timeout = QUICK;
    let mut client = scene.client();
    client.send(GET).await;
    let answer = client.until("\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 503 Service Unavailable"),
        "{answer}"
    );
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
}

/// It was read by a task of its own, which may not have run since something came.
#[tokio::test]
async fn a_connection_whose_answer_began_before_the_request_had_ended_is_not_used_again() {
    let mut scene = Scene::new(1);
    scene.plays(0, |number, mut stream| async move {
        if number == 0 {
            let begins = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no";
            stream.read_exact(&mut [0; 10]).await.unwrap();
            stream.write_all(begins).await.unwrap();
            let mut all = Vec::new();
            while !all.ends_with(b"zz") {
                stream.read_buf(&mut all).await.unwrap();
            }
            stream.write_all(b"k").await.unwrap();
        }
        while request(&mut stream).await.is_some() {
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    });
    let mut client = scene.client();
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n";
    client.send(head).await;
    client.until("\r\n\r\no").await;
    client.send("zz").await;
    client.until("k").await;
    client.ok().await;
    assert_eq!(scene.accepted(), 2);
}

/// In a worker that drains: where it is told to go.
#[tokio::test]
async fn what_an_application_was_not_given_goes_to_the_owners() {
    let told = |scene: &Scene, owners: &Scene| {
        let at = owners.paths.iter().cloned().map(Upstream::Unix).collect();
        scene.owners.tell(at);
    };
    let owners = Scene::saying(OK);
    let dead = Scene::new(1);
    // One that takes nobody, with its queue full.
    let full = Scene::new(1);
    let listener = std::os::unix::net::UnixListener::bind(&full.paths[0]).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _queued = std::os::unix::net::UnixStream::connect(&full.paths[0]).unwrap();
    for mut scene in [dead, full] {
        scene.app.connect_timeout = 6 * SOON;
        let mut clients = scene.clients(2);
        let (before, after) = clients.split_at_mut(1);
        before[0].send(GET).await;
        let waits = timeout(Duration::from_millis(50), before[0].until("ok")).await;
        assert!(waits.is_err(), "{waits:?}");
        told(&scene, &owners);
        before[0].until("ok").await;
        after[0].ok().await;
    }
    // Nobody goes there whose own application answers.
    let accepted = owners.accepted();
    let scene = Scene::saying(OK);
    told(&scene, &owners);
    scene.client().ok().await;
    assert_eq!((scene.accepted(), owners.accepted()), (1, accepted));
}
