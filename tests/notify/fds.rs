//! What workers inherit: nothing of the service manager's, and no descriptor that is not theirs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::kit::service::Service;
use crate::kit::{build, proc};
use crate::scene::{commit, messages, serving, serving_as, tcp, upgrade};

fn environment(pid: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).expect("a living process");
    let names = bytes.split(|b| *b == 0).filter(|v| !v.is_empty());
    names
        .map(|v| {
            String::from_utf8_lossy(v)
                .split('=')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect()
}

fn sockets(pid: u32) -> Vec<String> {
    let fds = proc::fds(pid).into_iter();
    let mut found: Vec<_> = fds
        .map(|(_, what)| what)
        .filter(|w| w.starts_with("socket:"))
        .collect();
    found.sort();
    found.dedup();
    found
}

fn full_unit(test: &str) -> Service {
    let setup = Service::setup(test)
        .passed("http")
        .tcp("own")
        .config("workers = 2");
    serving_as(setup, |mut unit| {
        unit.watchdog = Some(std::time::Duration::from_secs(60));
        unit
    })
}

#[test]
fn workers_have_nothing_of_the_service_manager_in_their_environment() {
    let service = full_unit("environment");
    upgrade(&service);
    let g1 = environment(service.master(1).pid);
    for name in ["NOTIFY_SOCKET", "WATCHDOG_PID", "LISTEN_FDS", "FDSTORE"] {
        assert!(
            g1.iter().any(|n| n == name),
            "the test proves nothing: no {name}"
        );
    }
    let g2 = environment(service.master(2).pid);
    assert!(g2.iter().any(|n| n == "NOTIFY_SOCKET"), "{g2:?}");
    for name in g2 {
        assert!(
            !name.starts_with("LISTEN_") && name != "WATCHDOG_PID",
            "{name}"
        );
    }
    let strange = |name: &String| {
        let prefixes = [
            "NOTIFY_",
            "WATCHDOG_",
            "LISTEN_",
            "FDSTORE",
            "SYSTEMD_EXEC_PID",
        ];
        prefixes.iter().any(|p| name.starts_with(p))
            || ["HANDOVER_CHANNEL", "HANDOVER_KEEPER"].contains(&name.as_str())
    };
    let workers = service.workers(2);
    assert_eq!(workers.len(), 2);
    for worker in workers {
        let found: Vec<_> = environment(worker.pid)
            .into_iter()
            .filter(strange)
            .collect();
        assert_eq!(found, [""; 0]);
    }
}

/// A worker's own signals are blocked, and its environment says what it is: an application's child is none.
#[test]
fn what_an_application_starts_is_no_worker() {
    let setup = Service::setup("started").name("workbench");
    let program = build::other_version_of_example("workbench", "1.0.0");
    let service = serving(setup.image(program));
    let mut client = TcpStream::connect(tcp(&service, "http")).expect("a worker");
    let request = b"GET /started HTTP/1.0\r\n\r\n";
    client.write_all(request).expect("a worker that reads");
    let mut said = String::new();
    client.read_to_string(&mut said).expect("an answer");
    assert!(said.contains("PATH="), "{said}");
    for line in said.lines() {
        let (name, value) = line.split_once(['=', ':']).unwrap_or((line, ""));
        let is_ours = name.starts_with("HANDOVER_") && name != "HANDOVER_KIT";
        assert!(!is_ours, "{line}");
        if name == "SigBlk" {
            assert_eq!(value.trim().trim_matches('0'), "", "{line}");
        }
    }
    assert!(said.contains("SigBlk:"), "{said}");
}

#[test]
fn workers_have_the_listeners_and_their_channel_and_no_descriptor_of_a_master() {
    let service = full_unit("descriptors");
    let counts = |generation: u64| -> Vec<usize> {
        let workers = service.workers(generation).into_iter();
        workers.map(|p| proc::fds(p.pid).len()).collect()
    };
    let first = counts(1);
    upgrade(&service);
    commit(&service);
    let master = service.master(2).pid;
    // The unit's, which all workers share, and ours, of which each has a socket of its own.
    let listeners = service.status().unwrap().listeners;
    let shared_by_all = listeners.iter().filter(|l| l.source == "systemd").count();
    assert_eq!((listeners.len(), shared_by_all), (2, 1));
    let workers = service.workers(2);
    for worker in &workers {
        let fds = proc::fds(worker.pid);
        for (number, what) in &fds {
            assert!(
                !what.contains("signalfd") && !what.contains("pidfd"),
                "{number} {what}"
            );
            assert!(
                *number > 2 || !what.starts_with("socket:"),
                "{number} {what}"
            );
        }
        // What is shared with the master: the listeners, and not the control socket.
        let of_master = sockets(master);
        let shared = sockets(worker.pid)
            .into_iter()
            .filter(|s| of_master.contains(s))
            .count();
        assert_eq!(shared, listeners.len(), "{fds:?}");
        for other in workers.iter().filter(|o| o.pid != worker.pid) {
            let of_other = sockets(other.pid);
            let shared = sockets(worker.pid)
                .into_iter()
                .filter(|s| of_other.contains(s));
            assert_eq!(shared.count(), shared_by_all, "a channel of another worker");
        }
    }
    assert_eq!(
        counts(2),
        first,
        "a generation has more descriptors than the last"
    );
    for worker in workers {
        assert_eq!(messages(&service, |m| m.pid == worker.pid), []);
    }
}
