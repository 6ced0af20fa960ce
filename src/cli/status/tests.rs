//! What an operator sees at 3 a.m., word for word.

use super::*;
use crate::api::{ConfigState, Connections, Disk, Listener, Releases, UnitRev, Upgrade, Worker};

/// g7 serves alone.
pub(in crate::cli) fn serving() -> Status {
    Status {
        schema: 1,
        name: "handover".into(),
        owner_pid: 4100,
        generation: 7,
        version: "1.4.1".into(),
        build_id: "aaaaaaaabbbb".into(),
        phase: "serving".into(),
        started_at: "2026-11-22T12:00:00Z".into(),
        systemd_main_pid: Some(4100),
        metrics: None,
        listeners: vec![Listener {
            name: "http".into(),
            address: "[::]:80".into(),
            source: "systemd".into(),
        }],
        masters: vec![master(
            4100,
            7,
            "1.4.1",
            "serving",
            &["accepting", "accepting"],
        )],
        disk: Disk {
            path: "/usr/lib/handover/bin/handover".into(),
            version: Some("1.4.1".into()),
            build_id: Some("aaaaaaaabbbb".into()),
            matches_running: true,
            put_back: false,
        },
        drift: None,
        rollback_to: None,
        config: ConfigState {
            path: Some("/etc/handover/handover.toml".into()),
            matches_disk: true,
        },
        unit_rev: None,
        upgrade: None,
        last: None,
        old_releases: Vec::new(),
        release: None,
        tls: None,
        warnings: Vec::new(),
    }
}

/// g8 has taken over from g7.
pub(in crate::cli) fn probation() -> Status {
    Status {
        owner_pid: 4312,
        generation: 8,
        version: "1.4.2".into(),
        phase: "probation".into(),
        systemd_main_pid: Some(4312),
        masters: vec![
            master(4312, 8, "1.4.2", "probation", &["accepting", "accepting"]),
            master(4100, 7, "1.4.1", "parked", &["draining"]),
        ],
        rollback_to: Some(Build {
            version: Some("1.4.1".into()),
            build_id: "aaaaaaaabbbb".into(),
        }),
        upgrade: Some(upgrade("probation", Some(41_200))),
        ..serving()
    }
}

fn upgrade(phase: &str, left: Option<u64>) -> Upgrade {
    Upgrade {
        id: "3fa9c2d1000000000000000000000001".into(),
        from: "1.4.1".into(),
        to: Some("1.4.2".into()),
        phase: phase.into(),
        started_at: "2026-11-22T14:59:42Z".into(),
        hold: left.is_none(),
        probation_left_ms: left,
        releases: None,
    }
}

fn master(pid: u32, generation: u64, version: &str, phase: &str, workers: &[&str]) -> Master {
    let workers = workers.iter().zip(1..).map(|(state, n)| Worker {
        pid: pid + n,
        generation,
        state: (*state).into(),
        connections: 7,
        requests: 1000,
    });
    Master {
        pid,
        generation,
        version: version.into(),
        phase: phase.into(),
        private_kib: 2150,
        workers: workers.collect(),
        app: None,
    }
}

pub(in crate::cli) fn ended(outcome: Outcome) -> Last {
    Last {
        to_build: None,
        id: "3fa9c2d1000000000000000000000001".into(),
        from: "1.4.1".into(),
        to: Some("1.4.2".into()),
        outcome,
        reason: (outcome != Outcome::Committed).then(|| "workers keep crashing".into()),
        finished_at: "2026-11-22T14:57:00Z".into(),
        takeover_ms: Some(12),
        drain_ms: Some(3149),
        connections: Connections {
            passed: 14,
            finished: 3,
            cut: 0,
            ..Connections::default()
        },
        releases: None,
    }
}

const PLAIN: Look<'static> = Look {
    command: "handover",
    colour: false,
};

fn now() -> Timestamp {
    "2026-11-22T15:00:00Z".parse().unwrap()
}

fn head(status: &Status) -> String {
    headline(status, now(), PLAIN)
}

#[test]
fn a_probation_shows_when_it_ends_and_the_way_back() {
    assert_eq!(
        render(&probation(), now(), PLAIN),
        "\
handover: 1.4.2 (g8) serves, in probation; it is final in 42 s; `handover rollback` goes back to 1.4.1

MASTER          VERSION  PHASE      MEMORY   CONNS  REQUESTS  WORKERS
4312 g8  owner  1.4.2    probation  2.0 MiB  14     2000      2 accepting
4100 g7         1.4.1    parked     2.0 MiB  7      1000      1 draining

upgrade   3fa9c2d1000000000000000000000001: 1.4.1 -> 1.4.2, ordered 18 s ago
listens   [::]:80 (http, systemd)
disk      /usr/lib/handover/bin/handover is what runs
config    /etc/handover/handover.toml is what runs
systemd   main process 4312, which owns the service
"
    );
}

/// Both run the same program.
#[test]
fn releases_are_called_by_their_names() {
    let mut status = probation();
    let runs = |release: &str| App {
        release: release.into(),
        ready: true,
        answering: Some(1),
        instances: Some(1),
        ended: None,
        pids: vec![1],
        restarts: 0,
        private_kib: 0,
    };
    for (master, release) in status.masters.iter_mut().zip(["/srv/b", "/srv/a"]) {
        master.app = Some(runs(release));
    }
    let of_program = "handover: 1.4.2 (g8) serves, in probation; it is final in 42 s; \
                      `handover rollback` goes back to 1.4.1";
    assert_eq!(head(&status), of_program);
    status.upgrade.as_mut().unwrap().releases = Some(Releases {
        from: "/srv/a".into(),
        to: "/srv/b".into(),
    });
    let said = render(&status, now(), PLAIN);
    for words in [
        "handover: release b (g8) serves, in probation",
        "`handover rollback` goes back to release a\n",
        "00000001: a -> b, ordered",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    status.phase = "evicting".into();
    let said = head(&status);
    assert!(said.ends_with("the rejected release b leaves"), "{said}");
    // Nothing is under way.
    status.upgrade = None;
    status.phase = "serving".into();
    let said = head(&status);
    assert!(
        said.starts_with("handover: release b (g8) serves"),
        "{said}"
    );
}

#[test]
fn the_application_that_waits_for_the_way_back_is_told_of_with_its_memory() {
    let mut status = probation();
    for (master, release) in status.masters.iter_mut().zip(["/srv/2", "/srv/1"]) {
        master.app = Some(App {
            release: release.into(),
            ready: true,
            answering: Some(2),
            instances: Some(2),
            ended: None,
            pids: vec![master.pid + 10],
            restarts: 0,
            private_kib: 42_000,
        });
    }
    let said = render(&status, now(), PLAIN);
    let lines =
        "app       /srv/2, 2 instances, 41.0 MiB\nparked    /srv/1, 2 instances, 41.0 MiB\n";
    assert!(said.contains(lines), "{said}");
    // An upgrade of ours: there is only one.
    let ours = status.masters[0].app.clone();
    status.masters[1].app = ours;
    let said = render(&status, now(), PLAIN);
    assert!(!said.contains("\nparked "), "{said}");
}

/// Its end may be written down before it has left, and its version never known.
#[test]
fn a_rejected_successor_is_told_of_without_its_version() {
    let mut status = serving();
    status.phase = "evicting".into();
    let said = head(&status);
    let words = "serves again; its rejected successor leaves";
    assert!(said.contains(words), "{said}");
}

#[test]
fn a_quiet_service_after_a_failure_shows_what_does_not_fit() {
    let mut status = serving();
    status.warnings = vec!["g6\nstill\x1bdrains".into()];
    status.last = Some(ended(Outcome::RolledBack));
    status.disk.matches_running = false;
    status.disk.version = None;
    status.disk.build_id = Some("ccccccccdddd".into());
    status.config.matches_disk = false;
    status.systemd_main_pid = None;
    status.unit_rev = Some(UnitRev {
        running: "2".into(),
        installed: "3".into(),
    });
    assert_eq!(
        render(&status, now(), PLAIN),
        "\
handover: 1.4.1 (g7) serves, started 3 h ago
warning: g6 still\\x1bdrains

MASTER          VERSION  PHASE    MEMORY   CONNS  REQUESTS  WORKERS
4100 g7  owner  1.4.1    serving  2.0 MiB  14     2000      2 accepting

listens   [::]:80 (http, systemd)
disk      /usr/lib/handover/bin/handover is build cccccccc, not what runs: `handover upgrade` runs it
config    /etc/handover/handover.toml has changed since: `handover check` looks at it, `handover reload` puts it into use
unit      the service runs with revision 2 of its unit file; revision 3 takes effect at the next restart
systemd   not under systemd
last      1.4.1 -> 1.4.2 rolled back 3 min ago: workers keep crashing (takeover 12 ms, drain 3.1 s, 14 passed on, 3 finished, 0 cut)
"
    );
}

#[test]
fn what_a_package_s_check_finds_after_a_rollback_is_explained() {
    let mut status = serving();
    let line = |status: &Status| disk(status, PLAIN);
    assert!(line(&status).ends_with("is what runs"));
    status.disk.put_back = true;
    assert_eq!(
        line(&status),
        "/usr/lib/handover/bin/handover is what runs, put back in the place of \
         /usr/lib/handover/bin/handover.rejected: `dpkg --verify` and `rpm -V` call it changed until \
         the next upgrade"
    );
    // But not when the next upgrade is under way.
    status.upgrade = Some(upgrade("probation", None));
    assert!(line(&status).ends_with("is what runs"));
    status.disk.put_back = true;
    // No package manager puts files there.
    status.disk.path = "/srv/app".into();
    assert!(line(&status).ends_with("is what runs"));
}

#[test]
fn every_phase_has_a_headline_that_says_what_comes_next() {
    let mut status = serving();
    status.upgrade = Some(upgrade("", None));
    for (phase, expected) in [
        ("starting", "starts"),
        ("standby", "is ready and waits until 1.4.1 hands over"),
        ("probation", "serves, in probation until `handover commit`"),
        ("committing", "serves and is final when 1.4.1 has left"),
        (
            "yielded",
            "gives the service back and serves until 1.4.1 is ready",
        ),
        ("serving", "serves, started 3 h ago"),
        (
            "reloading",
            "serves; workers with the new configuration start",
        ),
        ("launching", "serves; 1.4.2 gets ready"),
        (
            "beside",
            "and 1.4.2 both serve (hold); `handover commit` keeps the new one, `handover rollback` this one",
        ),
        ("parked", "stays ready to take over again; 1.4.2 serves"),
        ("reclaiming", "takes the service back from 1.4.2"),
        ("evicting", "serves again; the rejected 1.4.2 leaves"),
        ("draining", "leaves; 14 connections to finish"),
        ("done", "has left"),
        ("of_a_newer_version", "is of a newer version"),
    ] {
        status.phase = phase.into();
        assert_eq!(head(&status), format!("handover: 1.4.1 (g7) {expected}"));
    }
}

#[test]
fn a_successor_nobody_knows_yet_is_still_spoken_of() {
    let mut status = serving();
    status.phase = "launching".into();
    let mut unknown = upgrade("launching", None);
    unknown.to = None;
    status.upgrade = Some(unknown);
    let said = head(&status);
    assert!(said.ends_with("its successor gets ready"), "{said}");
}

#[test]
fn workers_of_another_generation_are_told_apart() {
    let mut reloading = master(
        1,
        7,
        "1",
        "reloading",
        &["accepting", "starting", "starting"],
    );
    reloading.workers[0].generation = 6;
    assert_eq!(workers(&reloading), "2 starting, 1 accepting (g6)");
}

#[test]
fn a_file_on_disk_that_is_no_program_is_said_loudly() {
    let mut status = serving();
    status.disk.matches_running = false;
    status.disk.build_id = None;
    let text = render(&status, now(), PLAIN);
    assert!(text.contains("a restart would fail"), "{text}");
    let colour = Look {
        colour: true,
        ..PLAIN
    };
    let text = render(&status, now(), colour);
    assert!(text.contains("\x1b[31m/usr/lib/handover"), "{text}");
}

#[test]
fn colour_changes_no_word() {
    let colour = Look {
        colour: true,
        ..PLAIN
    };
    let mut text = render(&probation(), now(), colour);
    for code in ["0", "1", "2", "31", "32", "33"] {
        text = text.replace(&format!("\x1b[{code}m"), "");
    }
    assert_eq!(text, render(&probation(), now(), PLAIN));
}
