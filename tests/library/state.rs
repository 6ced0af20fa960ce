//! State that a generation gives to the one that takes over.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::get;
use handover::testing::Running;
use handover::{BoxError, Context, Service};

use crate::client::{Client, soon};

/// Counts its requests, and those of the generations before.
fn counter(version: u32, must: bool) -> Service {
    Service::new("test")
        .version("1")
        .http("http", "127.0.0.1:80", move |cx: Context| async move {
            let before = cx.take::<u64>("count", version).await;
            let before = if must { before? } else { before.ok().flatten() };
            let count = Arc::new(AtomicU64::new(before.unwrap_or(0)));
            let offered = Arc::clone(&count);
            cx.offer("count", version, move || offered.load(Ordering::SeqCst));
            let next = async move || (count.fetch_add(1, Ordering::SeqCst) + 1).to_string();
            Ok::<_, BoxError>(Router::new().route("/", get(next)))
        })
}

async fn ask(running: &Running) -> String {
    let address = running.address("http").unwrap();
    Client::connect(address).await.get("/").await
}

#[tokio::test]
async fn it_goes_with_upgrades_and_comes_back_with_a_rollback() {
    let mut running = Running::start(counter(1, true)).await.unwrap();
    assert_eq!(ask(&running).await, "1");
    assert_eq!(ask(&running).await, "2");
    running.upgrade(counter(1, true)).await.unwrap();
    soon(running.drained()).await;
    assert_eq!(ask(&running).await, "3");
    running.rollback().await.unwrap();
    soon(running.drained()).await;
    assert_eq!(ask(&running).await, "4");
}

#[tokio::test]
async fn the_application_says_whether_one_that_it_cannot_read_refuses_the_upgrade() {
    let mut running = Running::start(counter(1, true)).await.unwrap();
    assert_eq!(ask(&running).await, "1");
    let refused = running.upgrade(counter(2, true)).await.unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains("\"count\" is of version 1"), "{refused}");
    assert_eq!(ask(&running).await, "2");
    running.upgrade(counter(2, false)).await.unwrap();
    soon(running.drained()).await;
    assert_eq!(ask(&running).await, "1", "it began anew");
}

#[tokio::test]
async fn a_descriptor_is_shared_and_misses_nothing() {
    let service = || {
        Service::new("test")
            .version("1")
            .http("http", "127.0.0.1:80", async |cx: Context| {
                let file = match cx.take_descriptor("table", 1).await? {
                    Some(descriptor) => File::from(descriptor),
                    None => tempfile::tempfile()?,
                };
                cx.offer_descriptor("table", 1, file.try_clone()?.into());
                let file = Arc::new(file);
                let next = async move || {
                    let mut byte = [0];
                    let _ = file.read_at(&mut byte, 0);
                    byte[0] += 1;
                    file.write_at(&byte, 0).unwrap();
                    byte[0].to_string()
                };
                Ok::<_, BoxError>(Router::new().route("/", get(next)))
            })
    };
    let mut running = Running::start(service()).await.unwrap();
    assert_eq!(ask(&running).await, "1");
    running.upgrade(service()).await.unwrap();
    soon(running.drained()).await;
    assert_eq!(ask(&running).await, "2");
    running.rollback().await.unwrap();
    soon(running.drained()).await;
    assert_eq!(ask(&running).await, "3");
}
