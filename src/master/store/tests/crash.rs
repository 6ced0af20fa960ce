//! Both hands are killed at every change that they make, in one case of each kind. What is left is
//! a state that the machine knows: what it is after some number of its steps. The same verb again
//! goes on from there.

use std::collections::BTreeMap;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use super::guard::{GUARD, Guard};
use super::lab::root;
use super::table::{Files, Masters};
use crate::machine::trial::cases::{self, Disk, Hand, Verb};

/// One case of every kind of plan: the same steps in the same order, whatever they are done with.
fn kinds() -> Vec<(Disk, Verb)> {
    let mut kinds = BTreeMap::new();
    for disk in cases::states(&[None, Some(('a', 1)), Some(('a', 3))]) {
        for verb in Verb::all() {
            let steps = verb.plan(&disk).steps;
            let name = |step| format!("{step:?}").split('(').next().map(str::to_owned);
            let names: Vec<_> = steps.iter().filter_map(name).collect();
            if !names.is_empty() {
                kinds.entry(names).or_insert_with(|| (disk.clone(), verb));
            }
        }
    }
    kinds.into_values().collect()
}

/// After so many of the machine's steps.
fn known(disk: &Disk, verb: &Verb) -> Vec<Disk> {
    let (mut hand, plan) = Hand::begin(disk.clone(), verb, true);
    let mut known = vec![disk.clone()];
    for step in &plan.steps {
        hand.take(step);
        known.push(hand.disk.clone());
    }
    known
}

/// Carries a case out again and again, killed each time one change later. `kill` says whether it was
/// killed at that change (else it has finished), `again` carries it out whole.
fn killed_everywhere(
    files: &Files,
    (disk, verb): &(Disk, Verb),
    kill: impl Fn(usize) -> bool,
    again: impl Fn(),
) -> usize {
    let known = known(disk, verb);
    for change in 1.. {
        files.make(disk);
        let killed = kill(change);
        let left = files.read();
        let at = format!("{disk:?}\n{verb:?}, change {change}");
        if !killed {
            assert_eq!(Some(&left), known.last(), "{at}");
            return change - 1;
        }
        assert!(known.contains(&left), "nobody knows {left:?}\n{at}");
        again();
        let (expected, _) = cases::perform(&left, verb, true);
        assert_eq!(files.read(), expected, "{at}");
    }
    unreachable!("it ends some time");
}

#[test]
fn the_guard_may_be_killed_at_any_moment() {
    if !root() {
        return;
    }
    let guard = Guard::new();
    let mut kills = 0;
    let kinds = kinds();
    for case in &kinds {
        let kill = |change: usize| {
            let status = Command::new("bash")
                .args(["-c", KILLED, "bash", &change.to_string(), GUARD])
                .args(guard.arguments(&case.1))
                .envs(Guard::environment(&case.1))
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0)
                .status();
            status.unwrap().signal() == Some(9)
        };
        kills += killed_everywhere(&guard.files, case, kill, || {
            guard.carry_out(&case.1);
        });
    }
    println!(
        "root's guard: killed {kills} times in {} cases",
        kinds.len()
    );
    assert!(kills > 40, "{kills}");
}

/// Runs the guard up to its `$1`th command that changes something.
const KILLED: &str = r#"
left=$1 guard=$2
shift 2
set -T
trap 'case $BASH_COMMAND in cp\ *|mv\ *|ln\ *|rm\ *|sync\ *|echo\ *\>*)
    left=$((left - 1)); [ $left -gt 0 ] || kill -KILL $$ ;; esac' DEBUG
. "$guard"
"#;

const DIRECTORY: &str = "HANDOVER_TEST_CRASH_IN";
const CASE: &str = "HANDOVER_TEST_CRASH_CASE";

/// Only where a test wants it: carries one case out on the files that are there.
#[test]
fn a_process_that_is_to_be_killed() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    let case: usize = std::env::var(CASE).unwrap().parse().unwrap();
    let masters = Masters::at(directory.as_ref());
    masters.carry_out(&kinds()[case].1);
}

#[test]
fn our_own_hand_may_be_killed_at_any_system_call() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("skipped: there is no strace");
        return;
    }
    let masters = Masters::new();
    let mut kills = 0;
    let kinds = kinds();
    for (number, case) in kinds.iter().enumerate() {
        masters.files.make(&case.0);
        if masters.carry_out(&case.1).is_none() {
            continue;
        }
        for call in CALLS {
            let kill = |change: usize| {
                let inject = format!("inject={call}:signal=SIGKILL:when={change}");
                let this = std::env::current_exe().unwrap();
                let status = Command::new("strace")
                    .args(["-f", "-qq", "-o", "/dev/null", "-e", &inject])
                    .arg(this)
                    .args([
                        "--exact",
                        &format!("{}::a_process_that_is_to_be_killed", path()),
                    ])
                    .env(DIRECTORY, masters.files.root())
                    .env(CASE, number.to_string())
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .status()
                    .unwrap();
                let killed = status.signal() == Some(9);
                assert!(killed || status.success(), "{status}");
                killed
            };
            kills += killed_everywhere(&masters.files, case, kill, || {
                masters.carry_out(&case.1);
            });
        }
    }
    println!(
        "our own hand: killed {kills} times in {} cases",
        kinds.len()
    );
    assert!(kills > 50, "{kills}");
}

/// Those that change a name or bring one to the disk.
const CALLS: &[&str] = &["rename", "renameat2", "linkat", "unlink", "fsync"];

/// Of this module, as the test program names its tests.
fn path() -> &'static str {
    module_path!().split_once("::").map_or("", |(_, path)| path)
}
