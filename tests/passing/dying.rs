//! A receiving worker that dies in the middle loses nothing that it has not taken.

use rustix::process::Signal;

use crate::cases::{PATIENT, begin};
use crate::kit::build;
use crate::kit::service::Service;
use crate::raw::Raw;

const MANY: usize = 600;

/// Both generations accept, and many clients are with the first.
fn beside(test: &str) -> (Service, Vec<Raw>) {
    let service = begin(test, PATIENT);
    let target = service.target("http");
    let clients: Vec<_> = (0..MANY).map(|_| Raw::hasty(&target)).collect();
    service.wait_status("all clients with the first generation", |s| {
        let workers = s.masters.iter().flat_map(|m| &m.workers);
        workers.map(|w| w.connections).sum::<u64>() as usize == MANY
    });
    service.replace(&build::other_version_of_example("workbench", "2.0.0"));
    service.cli(&["upgrade", "--hold"]).assert_code(0);
    service.wait_owner(1, "beside");
    (service, clients)
}

fn received(service: &Service) -> u64 {
    let text = service.control("/metrics").unwrap_or_default();
    let text = String::from_utf8(text).expect("text");
    let line = text
        .lines()
        .find(|l| l.starts_with("handover_received_total"));
    line.and_then(|l| l.split(' ').nth(1)?.parse().ok())
        .unwrap_or(0)
}

/// Stopped, so that it takes nothing: its queue is full when it is killed.
#[test]
fn what_lies_in_the_queue_of_a_killed_worker_goes_to_its_replacement() {
    let (service, mut clients) = beside("dying-queue");
    let victim = service.workers(2)[0].pid;
    service.signal(victim, Signal::STOP);
    service.signal(service.master(1).pid, Signal::WINCH);
    service.wait_owner(2, "probation");
    // The other one has its share when it has taken as many as it ever will while one half waits.
    service.wait_status("the transfer to be under way", |_| received(&service) > 32);
    // On a busy machine it may have been replaced because it hangs.
    service.make_sure_of(victim);
    for client in &mut clients {
        assert_eq!(client.get("/who").generation(), "g2");
    }
    service.wait_processes("the end of the drain", |_| service.workers(1).is_empty());
}

/// The senders have gone when it dies: nobody but the master remembers the queue.
#[test]
fn a_queue_outlives_its_senders_and_its_receiver() {
    let (service, clients) = beside("dying-late");
    // No more than fit into two queues.
    let mut clients: Vec<_> = clients.into_iter().take(60).collect();
    service.wait_status("the others to be gone", |s| {
        let workers = s.masters.iter().flat_map(|m| &m.workers);
        workers.map(|w| w.connections).sum::<u64>() == 60
    });
    let victim = service.workers(2)[0].pid;
    service.signal(victim, Signal::STOP);
    service.signal(service.master(1).pid, Signal::WINCH);
    service.wait_owner(2, "probation");
    service.wait_processes("the end of the senders", |_| service.workers(1).is_empty());
    service.make_sure_of(victim);
    for client in &mut clients {
        assert_eq!(client.get("/who").generation(), "g2");
    }
}

/// Running, so that it dies with what it had taken. Everybody else goes on.
#[test]
fn a_worker_killed_in_the_middle_loses_only_what_it_had_taken() {
    let (service, mut clients) = beside("dying-middle");
    let victim = service.workers(2)[0].pid;
    service.signal(service.master(1).pid, Signal::WINCH);
    service.kill(victim);
    service.wait_owner(2, "probation");
    service.wait_processes("the end of the drain", |_| service.workers(1).is_empty());
    let lost = clients
        .iter_mut()
        .filter_map(|client| client.try_get("/who").err())
        .count();
    println!("{lost} of {MANY} were lost with the worker");
    // Each of the two senders deals one to each receiver in turn, and may begin with this one.
    let dealt = MANY / 2 + 1;
    assert!(
        lost <= dealt,
        "{lost} were lost: it was dealt {dealt} at most"
    );
}
