//! A worker that drains loses no request: a real worker in a thread, over a real channel, with
//! real clients.

mod support;

use std::time::Duration;

use support::client::Client;
use support::worker::TestWorker;

#[tokio::test]
async fn it_serves_and_leaves_when_it_has_drained() {
    let mut worker = TestWorker::start().await;
    let mut client = Client::connect(&worker).await;
    assert_eq!(client.get("/hello").await.text(), "hello from g1");
    worker.drain(Some(Duration::from_secs(5))).await;
    let answer = client.get("/hello").await;
    assert!(answer.says_close());
    assert!(client.at_eof().await);
    let report = worker.drained().await;
    assert_eq!((report.finished, report.cut), (1, 0));
}
