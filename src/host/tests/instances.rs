//! Several instances: who is asked.

use super::*;

#[tokio::test]
async fn an_instance_that_is_away_is_left_out() {
    let mut scene = Scene::new(3);
    for instance in [0, 2] {
        scene.plays(instance, |_, mut stream| async move {
            while request(&mut stream).await.is_some() {
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        });
    }
    for mut client in scene.clients(12) {
        assert_eq!(client.status().await, "HTTP/1.1 200 OK");
    }
}

#[tokio::test]
async fn an_instance_that_does_not_answer_is_left_out_for_a_while() {
    let mut scene = Scene::new(2);
    // Long enough for the one that answers.
    scene.app.answer_timeout = 5 * QUICK;
    scene.plays(0, |_, mut stream| async move {
        while request(&mut stream).await.is_some() {}
    });
    scene.plays(1, |_, mut stream| async move {
        while request(&mut stream).await.is_some() {
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    });
    let mut client = scene.client();
    let mut late = 0;
    for _ in 0..6 {
        let status = client.status().await;
        late += usize::from(status == "HTTP/1.1 504 Gateway Timeout");
    }
    assert_eq!(late, 1);
}

#[tokio::test]
async fn requests_are_dealt_evenly_by_what_each_instance_has() {
    let mut scene = Scene::new(3);
    scene.app.answer_timeout = SOON;
    let counts: [Arc<AtomicUsize>; 3] = Default::default();
    for (instance, count) in counts.iter().enumerate() {
        let count = Arc::clone(count);
        scene.plays(instance, move |_, mut stream| {
            let count = Arc::clone(&count);
            async move {
                request(&mut stream).await;
                count.fetch_add(1, Ordering::Relaxed);
                // Never answered: each request is one more that the instance has.
                let _ = stream.read(&mut [0; 1]).await;
            }
        });
    }
    let mut clients = scene.clients(30);
    for client in &mut clients {
        client.send(GET).await;
    }
    let dealt = || counts.each_ref().map(|n| n.load(Ordering::Relaxed));
    let all = async {
        while dealt().iter().sum::<usize>() < 30 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, all).await.unwrap();
    assert_eq!(dealt(), [10, 10, 10]);
}
