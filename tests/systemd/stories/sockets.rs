//! Socket units that come and go.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::load;
use crate::host::{Host, SOON, until};
use crate::release::Build;

/// What a reload can do about it, and what waits for the next start.
pub fn a_socket_unit_more_and_less(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::steady();
    // Gained: systemd passes nothing to a service that runs, and says so.
    host.configure("[[listener]]\nname = \"extra\"");
    host.container
        .write("/etc/systemd/system/handover-extra.socket", EXTRA);
    host.systemctl(["daemon-reload"]).ok();
    let mark = "now a listener is gained";
    host.mark_journal(mark);
    let ran = host.reload();
    assert!(ran.code != 0, "{ran}");
    let said = host.journal_since(mark);
    assert!(said.contains("extra"), "{said}");
    assert_eq!(host.assert_runs(Build::A), before);
    assert_eq!(host.status()["config"]["matches_disk"], false);
    let refused = host.systemctl(["start", "handover-extra.socket"]);
    assert!(refused.code != 0, "{refused}");
    load::goes_on(&load);
    load.stop().assert_clean();
    host.systemctl(["stop", "handover.service"]).ok();
    let units = ["handover-extra.socket", "handover.service"];
    host.systemctl(["start"].iter().chain(&units)).ok();
    let after = host.assert_runs(Build::A);
    assert_eq!(listeners(host), ["extra", "http"]);
    assert!(answers("127.0.0.1:8081"), "the new listener");
    // A successor inherits it.
    host.install(Build::B);
    host.reload().ok();
    let successor = host.assert_runs(Build::B);
    assert_ne!(successor, after);
    host.handover(&["commit"]).ok();
    assert!(answers("127.0.0.1:8081"), "the new listener, upgraded");
    // Lost: let go at once; the socket unit has its own copy until it is stopped.
    let load = load::steady();
    host.configure("");
    host.reload().ok();
    assert_eq!(host.assert_runs(Build::B), successor);
    assert_eq!(listeners(host), ["http"]);
    host.systemctl(["stop", "handover-extra.socket"]).ok();
    until("nobody listens any more", SOON, || {
        TcpStream::connect("127.0.0.1:8081").err()
    });
    assert_eq!(host.assert_runs(Build::B), successor);
    load::goes_on(&load);
    load.stop().assert_clean();
}

fn listeners(host: &Host) -> Vec<String> {
    let status = host.status();
    let listeners = status["listeners"].as_array().expect("listeners");
    let mut names: Vec<_> = listeners
        .iter()
        .map(|l| l["name"].as_str().expect("a name").to_owned())
        .collect();
    names.sort();
    names.dedup();
    names
}

fn answers(address: &str) -> bool {
    let mut stream = TcpStream::connect(address).expect("connect");
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit).expect("a deadline");
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.starts_with("HTTP/1.1 200")
}

const EXTRA: &str = "[Socket]
ListenStream=8081
BindIPv6Only=both
FileDescriptorName=extra
Service=handover.service
";
