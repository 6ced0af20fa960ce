//! What a generation does once, before it serves, and what cannot be undone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::get;
use handover::testing::{Running, TestError};
use handover::{BoxError, Context, Service};

use crate::client::{Client, soon};

/// Each application says how often was prepared before it was made.
fn service(prepared: &Arc<AtomicU64>, problem: Option<&'static str>) -> Service {
    let (count, made) = (Arc::clone(prepared), Arc::clone(prepared));
    Service::new("test")
        .version("1")
        .prepare(move |cx: Context| {
            let count = count.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                if count == 3 {
                    cx.irreversible("schema 42");
                }
                problem.map_or(Ok(()), Err)
            }
        })
        .http("http", "127.0.0.1:80", move |_: Context| {
            let before = made.load(Ordering::SeqCst).to_string();
            async { Ok::<_, BoxError>(Router::new().route("/", get(async || before))) }
        })
}

#[tokio::test]
async fn a_generation_prepares_once_before_it_serves_and_a_rollback_does_not_do_so_again() {
    let prepared = Arc::new(AtomicU64::new(0));
    let mut running = Running::start(service(&prepared, None)).await.unwrap();
    let address = running.address("http").unwrap();
    assert_eq!(Client::connect(address).await.get("/").await, "1");
    running.upgrade(service(&prepared, None)).await.unwrap();
    soon(running.drained()).await;
    assert_eq!(Client::connect(address).await.get("/").await, "2");
    running.rollback().await.unwrap();
    soon(running.drained()).await;
    // Made a second time, by the generation that had prepared.
    assert_eq!(Client::connect(address).await.get("/").await, "2");

    // The third one cannot be undone.
    running.upgrade(service(&prepared, None)).await.unwrap();
    soon(running.drained()).await;
    match running.rollback().await {
        Err(TestError::Irreversible(reason)) => assert_eq!(reason, "schema 42"),
        other => panic!("{other:?}"),
    }
    assert_eq!(Client::connect(address).await.get("/").await, "3");
}

#[tokio::test]
async fn an_error_of_it_fails_the_upgrade_and_the_generation_before_serves_on() {
    let prepared = Arc::new(AtomicU64::new(0));
    let mut running = Running::start(service(&prepared, None)).await.unwrap();
    let refused = running
        .upgrade(service(&prepared, Some("no database")))
        .await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("no database"), "{refused}");
    let address = running.address("http").unwrap();
    assert_eq!(Client::connect(address).await.get("/").await, "1");
}
