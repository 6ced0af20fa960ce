//! What one reads afterwards, and meanwhile: the journal, `handover history`, `systemctl status`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::host::{Host, SOON, until};
use crate::release::{Bad, Build};

/// `journalctl HANDOVER_UPGRADE_ID=...` has every step, from both generations, each with everything
/// by which somebody could look for it; `-x` explains them; `handover history` prints them.
pub fn an_upgrade_can_be_read_from_beginning_to_end(host: &mut Host) {
    host.start();
    let old = host.assert_runs(Build::A);
    let mut generations = vec![("1", old)];

    host.install(Build::B);
    host.reload().ok();
    generations.push(("2", host.assert_runs(Build::B)));
    host.handover(&["rollback"]).ok();
    assert_eq!(host.assert_runs(Build::A), old);
    let told = story(host, &[("1", "serving"), ("2", "done")]);
    told.is_told_by(&generations);
    told.went(
        "1",
        &["launching", "parked", "reclaiming", "evicting", "serving"],
    );
    told.went(
        "2",
        &["standby", "probation", "yielded", "draining", "done"],
    );
    told.ends("rolled_back", "rolled back by an order");

    host.install(Build::C);
    host.reload().ok();
    generations[1].1 = host.assert_runs(Build::C);
    host.handover(&["commit"]).ok();
    assert_eq!(host.assert_runs(Build::C), generations[1].1);
    let told = story(host, &COMMITTED);
    told.is_told_by(&generations);
    told.went("1", &["launching", "parked", "draining", "done"]);
    told.went("2", &["standby", "probation", "committing", "serving"]);
    told.ends("committed", "");

    host.install_file(&Bad::Exits3.path());
    assert!(host.reload().code != 0);
    assert_eq!(host.assert_runs(Build::C), generations[1].1);
    let told = story(host, &[("2", "serving")]);
    told.is_told_by(&generations[1..]);
    told.went("2", &["launching", "evicting", "serving"]);
    told.ends("failed", "the new master exited with code 3");
}

/// journald drops what a unit says too fast; a chatty application must not cost the story.
pub fn no_flood_drowns_it(host: &mut Host) {
    host.container.write(
        "/etc/systemd/journald.conf.d/small.conf",
        "[Journal]\nRateLimitIntervalSec=10min\nRateLimitBurst=20\n",
    );
    host.systemctl(["restart", "systemd-journald.service"]).ok();
    host.start();
    host.assert_runs(Build::A);
    // As a process of the unit, with the priority of milestones.
    let cgroup = host.property("ControlGroup");
    for word in ["before", "after"] {
        let flood = format!(
            "echo $$ >/sys/fs/cgroup{cgroup}/cgroup.procs
             systemd-cat --priority=notice sh -c 'yes {word} the flood | head -n 5000'"
        );
        host.container.sh(&flood).ok();
        if word == "before" {
            host.install(Build::B);
            host.reload().ok();
            host.assert_runs(Build::B);
        }
    }
    host.handover(&["commit"]).ok();
    let told = story(host, &COMMITTED);
    told.went("1", &["launching", "parked", "draining", "done"]);
    told.went("2", &["standby", "probation", "committing", "serving"]);
    told.ends("committed", "");
}

/// Version, generation, phase, what happens next and when; and the words that go back when the file
/// on disk cannot even answer.
pub fn systemctl_status_says_what_happens_next(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let version = env!("CARGO_PKG_VERSION");
    let says = |words: &[&str]| {
        until(&format!("a status of {words:?}"), SOON, || {
            let text = host.property("StatusText");
            words.iter().all(|word| text.contains(word)).then_some(())
        });
    };
    let serving = format!("{version} (g1) serves");
    says(&[&serving]);
    host.install_file(&Bad::Hangs.path());
    let client = host
        .container
        .spawn(["systemctl", "reload", "handover.service"])
        .expect("spawned");
    says(&[&format!("{version} (g1) serves; g2 gets ready")]);
    host.handover(&["rollback"]).ok();
    let out = client.wait_with_output().expect("waited");
    assert!(!out.status.success(), "{out:?}");
    says(&[&serving]);
    assert_eq!(host.assert_runs(Build::A), before);
    host.until_disk_is(Build::A);
    host.install(Build::B);
    host.reload().ok();
    host.assert_runs(Build::B);
    says(&[
        &format!("{version} (g2) serves, in probation until 2"),
        &format!("`rollback` goes back to {version}"),
    ]);
    host.handover(&["commit"]).ok();
    until("a status of a release that is final", SOON, || {
        (host.property("StatusText") == format!("{version} (g2) serves")).then_some(())
    });
}

/// What the journal has of one upgrade.
struct Story {
    /// Entries with a MESSAGE_ID.
    milestones: Vec<Value>,
}

/// Of the upgrade that ended last, when its end and these last phases, each with its generation, have
/// arrived.
fn story(host: &Host, last: &[(&str, &str)]) -> Story {
    // It has ended when the disk is as it must be.
    let id = until("an upgrade that ended", SOON, || {
        host.status()["last"]["id"].as_str().map(str::to_owned)
    });
    let by_id = format!("HANDOVER_UPGRADE_ID={id}");
    let entries = until(&format!("{id} in the journal, to {last:?}"), SOON, || {
        let ran = host
            .container
            .run(["journalctl", "--output=json", "--all", &by_id]);
        let lines = ran.ok().lines();
        let entries: Vec<Value> = lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let said = |(generation, phase): &(&str, &str)| {
            entries.iter().any(|entry| {
                entry["MESSAGE_ID"] == PHASE_CHANGED
                    && entry["HANDOVER_GENERATION"] == *generation
                    && entry["HANDOVER_PHASE"] == *phase
            })
        };
        let ended = entries.iter().any(|e| e["HANDOVER_OUTCOME"].is_string());
        (ended && last.iter().all(said)).then_some(entries)
    });
    let printed = host.handover(&["history", &id[..8]]);
    host.container.sh("journalctl --update-catalog").ok();
    let explained = host.container.run(["journalctl", "--catalog", &by_id]);
    let mut milestones = Vec::new();
    for entry in entries {
        let message = entry["MESSAGE"].as_str().expect("a message");
        assert!(printed.ok().contains(message), "{message:?} in {printed}");
        if entry["MESSAGE_ID"].is_string() {
            milestones.push(entry);
        }
    }
    let subjects = explained.ok().matches("Subject: ").count();
    assert_eq!(subjects, milestones.len(), "{explained}");
    assert!(!explained.stdout.contains("@HANDOVER"), "{explained}");
    Story { milestones }
}

impl Story {
    /// Every milestone is complete, and they come from these masters and nobody else.
    #[track_caller]
    fn is_told_by(&self, generations: &[(&str, u32)]) {
        let (_, old) = generations[0];
        for entry in &self.milestones {
            let has = |field: &str| {
                let value = entry[field].as_str();
                value.unwrap_or_else(|| panic!("no {field} in {entry}"))
            };
            assert_eq!(has("HANDOVER_OLD_PID"), old.to_string(), "{entry}");
            assert_eq!(has("HANDOVER_OLD_VERSION"), env!("CARGO_PKG_VERSION"));
            has("HANDOVER_PHASE");
            let teller = (
                has("HANDOVER_GENERATION"),
                has("_PID").parse().expect("a pid"),
            );
            assert!(generations.contains(&teller), "{entry}");
            if let Some((_, new)) = generations.get(1).filter(|(g, _)| teller.0 == *g) {
                assert_eq!(has("HANDOVER_NEW_PID"), new.to_string(), "{entry}");
                assert_eq!(has("HANDOVER_NEW_VERSION"), env!("CARGO_PKG_VERSION"));
            }
        }
        let tellers: BTreeSet<_> = self.all("_PID").collect();
        assert_eq!(tellers.len(), generations.len(), "{tellers:?}");
    }

    /// The phases that a generation entered, in this order.
    #[track_caller]
    fn went(&self, generation: &str, phases: &[&str]) {
        let went: Vec<_> = self
            .milestones
            .iter()
            .filter(|m| m["MESSAGE_ID"] == PHASE_CHANGED && m["HANDOVER_GENERATION"] == generation)
            .map(|m| m["HANDOVER_PHASE"].as_str().expect("a phase"))
            .collect();
        assert_eq!(went, phases, "g{generation}");
    }

    /// One milestone says how it ended and why.
    #[track_caller]
    fn ends(&self, outcome: &str, reason: &str) {
        let mut ends = self
            .milestones
            .iter()
            .filter(|m| m["HANDOVER_OUTCOME"].is_string());
        let end = ends.next().expect("an end");
        assert_eq!(end["HANDOVER_OUTCOME"], outcome, "{end}");
        let why = end["HANDOVER_REASON"].as_str().unwrap_or_default();
        assert!(why.contains(reason), "{end}");
        assert!(ends.next().is_none(), "it ends once");
    }

    fn all<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a str> {
        self.milestones
            .iter()
            .filter_map(move |m| m[field].as_str())
    }
}

/// The last phases of two masters.
const COMMITTED: [(&str, &str); 2] = [("1", "done"), ("2", "serving")];

/// Of src/master/story.rs.
const PHASE_CHANGED: &str = "e8692a04340247b5878a78ab21741f4f";
