//! Workers that share a listening socket share the connections, too.

use std::time::Duration;

use handover::machine::link::ToWorker;
use handover::sys::board::Board;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::worker::TestWorker;

async fn workers(count: u16) -> Vec<TestWorker> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let board = Board::create(count).unwrap();
    let mut workers = Vec::new();
    for slot in 0..count {
        let listener = listener.try_clone().unwrap().into();
        workers.push(TestWorker::sharing(listener, slot, board.try_clone().unwrap()).await);
    }
    for worker in &mut workers {
        worker.accept().await;
    }
    workers
}

async fn counts(workers: &[TestWorker]) -> Vec<u64> {
    let mut counts = Vec::new();
    for worker in workers {
        counts.push(worker.report().await.connections);
    }
    counts
}

/// Waits until that many connections have been accepted, and returns who has how many.
async fn settled(workers: &[TestWorker], count: u64) -> Vec<u64> {
    loop {
        let counts = counts(workers).await;
        if counts.iter().sum::<u64>() == count {
            return counts;
        }
    }
}

#[tokio::test]
async fn no_worker_holds_more_than_half_again_its_share_of_64_connections() {
    for (count, pause) in [(2, 0), (2, 2), (4, 0), (4, 2)] {
        // A worker that a busy machine keeps from running for a moment leaves its share to the others.
        let mut rounds = Vec::new();
        loop {
            let counts = round(count, pause).await;
            let most = counts.iter().max().unwrap();
            let fair = most * u64::from(count) * 2 <= 64 * 3;
            rounds.push(counts);
            if fair {
                break;
            }
            assert!(rounds.len() < 3, "{rounds:?}");
        }
    }
}

/// How so many workers share 64 connections.
async fn round(count: u16, pause: u64) -> Vec<u64> {
    let workers = workers(count).await;
    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(Client::connect(&workers[0]).await);
        if pause > 0 {
            sleep(Duration::from_millis(pause)).await;
        }
    }
    settled(&workers, 64).await
}

#[tokio::test]
async fn a_worker_that_stops_accepting_leaves_everything_to_the_others() {
    let workers = workers(2).await;
    workers[0].tell(&ToWorker::Quiesce, &[]).await;
    workers[0].report().await;
    let mut clients = Vec::new();
    for _ in 0..64 {
        let mut client = Client::connect(&workers[0]).await;
        client.get("/hello").await;
        clients.push(client);
    }
    assert_eq!(counts(&workers).await, [0, 64]);
}

#[tokio::test]
async fn a_worker_that_hangs_holds_up_nobody_for_long() {
    let workers = workers(2).await;
    // It says that it accepts, and never will: as if it had been stopped by a signal.
    let listener = workers[0].listener.try_clone().unwrap();
    let board = Board::create(2).unwrap();
    Board::join(board.try_clone().unwrap(), 0)
        .say(Some(0))
        .unwrap();
    let mut lonely = TestWorker::sharing(listener, 1, board).await;
    for worker in &workers {
        worker.tell(&ToWorker::Quiesce, &[]).await;
        worker.report().await;
    }
    lonely.accept().await;
    let begun = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut client = Client::connect(&lonely).await;
        client.get("/hello").await;
        clients.push(client);
    }
    println!("{:?}", begun.elapsed());
    // Waiting for every one would take four.
    assert!(begun.elapsed() < Duration::from_secs(3));
}
