//! An application knows that its worker ends, and the end waits for what it asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use handover::testing::{Running, TestContext, TestError};
use handover::{BoxError, Context, DrainReason, Peer, Service};
use http::StatusCode;
use tokio::sync::{Semaphore, mpsc};

use crate::client::{Client, soon};

/// What happened in an application, in order.
type Story = mpsc::UnboundedSender<String>;

fn service(story: &Story, gate: &Arc<Semaphore>) -> Service {
    let (story, gate) = (story.clone(), Arc::clone(gate));
    Service::new("test").http("http", "[::]:80", move |cx: Context| {
        let (story, gate) = (story.clone(), Arc::clone(&gate));
        async move {
            let generation = cx.generation();
            let (drains, ends) = (story.clone(), story.clone());
            let watched = cx.clone();
            tokio::spawn(async move {
                let drain = watched.draining().await;
                let _ = drains.send(format!("g{generation} drains: {}", drain.reason()));
            });
            cx.on_drain(Duration::from_secs(5), move |drain| async move {
                assert!(drain.left().is_some_and(|left| !left.is_zero()));
                let _ = ends.send(format!("g{generation} flushes"));
            });
            let jobs = async move |cx: Context| {
                cx.spawn(async move {
                    gate.acquire().await.unwrap().forget();
                    let _ = story.send(format!("g{generation} has done its job"));
                });
                StatusCode::ACCEPTED
            };
            Ok::<_, BoxError>(
                Router::new()
                    .route(
                        "/",
                        get(async |cx: Context| format!("g{}", cx.generation())),
                    )
                    .route("/jobs", post(jobs)),
            )
        }
    })
}

#[tokio::test]
async fn a_job_behind_a_202_is_done_before_the_flush_and_the_end_waits_for_both() {
    let (story, mut told) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let mut running = Running::start(service(&story, &gate)).await.unwrap();
    let mut client = Client::connect(running.address("http").unwrap()).await;
    let accepted = client.ask("POST", "/jobs").await;
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    drop(accepted);

    assert_eq!(running.upgrade(service(&story, &gate)).await.unwrap(), 2);
    assert_eq!(soon(told.recv()).await.unwrap(), "g1 drains: upgrade");
    // The same connection, and the job of the generation before is not done.
    while client.get("/").await != "g2" {}
    assert!(told.try_recv().is_err());
    gate.add_permits(1);
    assert_eq!(soon(told.recv()).await.unwrap(), "g1 has done its job");
    assert_eq!(soon(told.recv()).await.unwrap(), "g1 flushes");
    let ended = soon(running.drained()).await;
    assert_eq!((ended.passed, ended.cut), (1, 0));

    assert_eq!(running.rollback().await.unwrap(), 1);
    let mut two = [
        soon(told.recv()).await.unwrap(),
        soon(told.recv()).await.unwrap(),
    ];
    two.sort();
    assert_eq!(two, ["g2 drains: rollback", "g2 flushes"]);
    while client.get("/").await != "g1" {}
    drop(client);
    soon(running.stop()).await;
    let mut two = [
        soon(told.recv()).await.unwrap(),
        soon(told.recv()).await.unwrap(),
    ];
    two.sort();
    assert_eq!(two, ["g1 drains: stop", "g1 flushes"]);
}

#[tokio::test]
async fn nothing_is_left_behind_by_a_service_that_is_dropped() {
    let (story, mut told) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let mut running = Running::start(service(&story, &gate)).await.unwrap();
    let address = running.address("http").unwrap();
    let mut client = Client::connect(address).await;
    client.ask("POST", "/jobs").await;
    running.upgrade(service(&story, &gate)).await.unwrap();
    drop(running);
    drop(story);
    // The end of the channel: every copy in every thread of it has gone.
    while soon(told.recv()).await.is_some() {}
    let refused = tokio::net::TcpStream::connect(address).await;
    assert!(refused.is_err(), "somebody listens");
}

#[tokio::test]
async fn an_application_is_made_once_in_every_worker_and_its_error_fails_the_upgrade() {
    let made = Arc::new(AtomicUsize::new(0));
    let service = || {
        let made = Arc::clone(&made);
        Service::new("test").every_listener("a", "[::]:80", move |_: Context| {
            let made = made.fetch_add(1, Ordering::Relaxed);
            async move {
                if made == 1 {
                    return Err("the database is not there");
                }
                Ok(Router::new().route(
                    "/",
                    get(async |cx: Context| {
                        format!("{} {:?}", cx.listener().unwrap(), cx.generation())
                    }),
                ))
            }
        })
    };
    let two = |service: Service| {
        service.defaults(|settings| {
            let mut another = settings.listeners[0].clone();
            another.name = "b".into();
            settings.listeners.push(another);
        })
    };
    let mut running = Running::start(two(service())).await.unwrap();
    assert_eq!(made.load(Ordering::Relaxed), 1);
    for name in ["a", "b"] {
        let mut client = Client::connect(running.address(name).unwrap()).await;
        assert_eq!(client.get("/").await, format!("{name} 1"));
    }
    match running.upgrade(two(service())).await {
        Err(TestError::NotReady(why)) => assert_eq!(why, "the database is not there"),
        other => panic!("{other:?}"),
    }
    let mut client = Client::connect(running.address("a").unwrap()).await;
    assert_eq!(client.get("/").await, "a 1");
}

#[tokio::test]
async fn a_handler_knows_its_client() {
    let app = Router::new().route("/", get(async |peer: Peer| format!("{peer:?}")));
    let service = Service::new("test").http("http", "[::]:80", app);
    let running = Running::start(service).await.unwrap();
    let mut client = Client::connect(running.address("http").unwrap()).await;
    assert!(client.get("/").await.starts_with("Tcp(127.0.0.1:"));
}

#[tokio::test(start_paused = true)]
async fn half_of_a_short_drain_is_kept_for_its_last_things_at_most() {
    let test = TestContext::new(3);
    let cx = test.context();
    let done = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&done);
    cx.on_drain(Duration::from_secs(60), move |_| async move {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    cx.on_drain(Duration::from_secs(60), |_| std::future::pending());
    cx.on_drain(Duration::from_secs(60), |_| async { panic!("as a test") });
    cx.spawn(std::future::pending());
    cx.spawn(async { panic!("as a test") });
    let begun = tokio::time::Instant::now();
    test.drain(DrainReason::Stop, Some(Duration::from_secs(8)));
    assert_eq!(test.finish().await, 1);
    assert_eq!(done.load(Ordering::Relaxed), 1);
    assert_eq!(begun.elapsed().as_secs(), 8);
}
