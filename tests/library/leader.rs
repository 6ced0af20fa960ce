//! Work that one worker does at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use handover::testing::Running;
use handover::{BoxError, Context, Service};
use tokio::sync::mpsc;

use crate::client::soon;

/// Says who leads; panics when two do.
fn service(
    story: &mpsc::UnboundedSender<String>,
    leads: &Arc<AtomicBool>,
    failures: &Arc<AtomicUsize>,
) -> Service {
    let (story, leads, failures) = (story.clone(), Arc::clone(leads), Arc::clone(failures));
    Service::new("test").http("http", "[::]:80", move |cx: Context| {
        let (story, leads, failures) = (story.clone(), Arc::clone(&leads), Arc::clone(&failures));
        cx.leader("a report/of mine", Duration::from_secs(10), move |cx| {
            let (story, leads) = (story.clone(), Arc::clone(&leads));
            let fails = failures.fetch_sub(1, Ordering::SeqCst) == 1;
            async move {
                assert!(!fails, "as a test");
                assert!(!leads.swap(true, Ordering::SeqCst), "two lead");
                let _ = story.send(format!("g{} leads", cx.generation()));
                let drain = cx.draining().await;
                // What it has begun takes a moment.
                tokio::time::sleep(Duration::from_millis(50)).await;
                assert!(leads.swap(false, Ordering::SeqCst), "two led");
                let _ = story.send(format!("g{} ends: {}", cx.generation(), drain.reason()));
            }
        });
        async { Ok::<_, BoxError>(Router::new()) }
    })
}

#[tokio::test]
async fn the_leader_of_the_generation_before_ends_first_back_and_forth() {
    let (story, mut told) = mpsc::unbounded_channel();
    let leads = Arc::new(AtomicBool::new(false));
    let never = Arc::new(AtomicUsize::new(0));
    let mut running = Running::start(service(&story, &leads, &never))
        .await
        .unwrap();
    assert_eq!(soon(told.recv()).await.unwrap(), "g1 leads");
    running
        .upgrade(service(&story, &leads, &never))
        .await
        .unwrap();
    assert_eq!(soon(told.recv()).await.unwrap(), "g1 ends: upgrade");
    assert_eq!(soon(told.recv()).await.unwrap(), "g2 leads");
    running.rollback().await.unwrap();
    assert_eq!(soon(told.recv()).await.unwrap(), "g2 ends: rollback");
    assert_eq!(soon(told.recv()).await.unwrap(), "g1 leads");
    soon(running.stop()).await;
    assert_eq!(soon(told.recv()).await.unwrap(), "g1 ends: stop");
}

#[tokio::test]
async fn work_that_panics_is_begun_again_by_the_same_leader() {
    let (story, mut told) = mpsc::unbounded_channel();
    let leads = Arc::new(AtomicBool::new(false));
    let once = Arc::new(AtomicUsize::new(1));
    let running = Running::start(service(&story, &leads, &once))
        .await
        .unwrap();
    assert_eq!(soon(told.recv()).await.unwrap(), "g1 leads");
    soon(running.stop()).await;
}

#[tokio::test]
async fn work_that_does_not_end_is_ended_after_its_limit() {
    let (story, mut told) = mpsc::unbounded_channel();
    let service = || {
        let story = story.clone();
        Service::new("test").http("http", "[::]:80", move |cx: Context| {
            let story = story.clone();
            cx.leader("stubborn", Duration::from_millis(100), move |cx| {
                let _ = story.send(cx.generation());
                std::future::pending()
            });
            async { Ok::<_, BoxError>(Router::new()) }
        })
    };
    let mut running = Running::start(service()).await.unwrap();
    assert_eq!(soon(told.recv()).await, Some(1));
    running.upgrade(service()).await.unwrap();
    assert_eq!(soon(told.recv()).await, Some(2));
    soon(running.drained()).await;
}
