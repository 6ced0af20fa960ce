//! The same table, carried out by root's guard (`systemd/guard`).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::lab::root;
use super::table::Files;
use crate::machine::trial::Ended;
use crate::machine::trial::cases::{self, BUILDS, NO_PROGRAM, Verb};

pub(super) const GUARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/guard");

/// A unit that systemd does not know, should there be one.
const NO_UNIT: &str = "handover-no-such.service";

/// A program's directory, and for each build a process that runs it from there.
pub(super) struct Guard {
    pub(super) files: Files,
    running: HashMap<char, Child>,
}

impl Guard {
    pub(super) fn new() -> Self {
        let sleep = fs::read("/bin/sleep").unwrap();
        let build = |id: char| [&sleep[..], b"HANDOVER_UNIT_REV ", &[id as u8]].concat();
        let mut contents: HashMap<_, _> = BUILDS.map(|id| (id, (build(id), String::new()))).into();
        contents.insert(NO_PROGRAM, (b"no program".to_vec(), String::new()));
        for (bytes, name) in contents.values_mut() {
            for byte in Sha256::digest(bytes) {
                write!(name, "{byte:02x}").unwrap();
            }
        }
        // Programs run from it: not from a /dev/shm that is mounted noexec.
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(contents.clone(), dir);
        let running = BUILDS.map(|id| {
            let path = files.root().join(format!("runs-{id}"));
            crate::sys::image::fixture::put(&path, &contents[&id].0);
            let child = start(Command::new(&path).arg("600"));
            fs::remove_file(path).unwrap();
            (id, child)
        });
        Self {
            files,
            running: running.into(),
        }
    }

    /// The guard's arguments for this verb.
    pub(super) fn arguments(&self, verb: &Verb) -> Vec<String> {
        let program = self.files.program().to_str().unwrap().to_owned();
        let pid = |build: &char| self.running[build].id().to_string();
        let mut arguments = match verb {
            Verb::Start => vec!["start".into()],
            Verb::Ended(_) => vec!["ended".into(), NO_UNIT.into()],
            Verb::Commit(build) => vec!["commit".into(), pid(build)],
            Verb::Reject { failed, running } => {
                let failed = failed.map_or("none", |build| self.files.name(build));
                let mut arguments = vec!["reject".into(), failed.to_owned()];
                arguments.extend(running.as_ref().map(pid));
                arguments
            }
        };
        arguments.insert(1, program);
        arguments
    }

    pub(super) fn environment(verb: &Verb) -> [(&'static str, &'static str); 3] {
        let status = match verb {
            Verb::Ended(Ended::AsAsked) => ["success", "exited", "0"],
            _ => ["exit-code", "exited", "78"],
        };
        let names = ["SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS"];
        [0, 1, 2].map(|i| (names[i], status[i]))
    }

    pub(super) fn carry_out(&self, verb: &Verb) -> Output {
        Command::new("/bin/sh")
            .arg(GUARD)
            .args(self.arguments(verb))
            .envs(Self::environment(verb))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a program that this process has just written. While it was open to be written, a child of
/// another thread may have got it, too; until that has executed, the kernel executes it for nobody.
fn start(command: &mut Command) -> Child {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match command.spawn() {
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                std::thread::yield_now();
            }
            started => return started.unwrap(),
        }
    }
}

#[test]
fn every_case_is_carried_out_as_the_machine_says() {
    if !root() {
        return;
    }
    let guard = Guard::new();
    let (states, verbs) = (
        cases::states(&[None, Some(('a', 1)), Some(('a', 3))]),
        Verb::all(),
    );
    let all = states
        .iter()
        .flat_map(|disk| verbs.iter().map(move |verb| (disk, verb)));
    let mut told = 0;
    // A shell takes its time; the step divides nothing, so everything meets.
    for (disk, verb) in all.step_by(211) {
        guard.files.make(disk);
        let out = guard.carry_out(verb);
        let said = String::from_utf8_lossy(&out.stderr);
        // Without systemd nobody starts the unit again.
        let may_fail = matches!(verb, Verb::Ended(Ended::Hopeless));
        assert!(
            out.status.success() || may_fail,
            "{disk:?}\n{verb:?}\n{said}"
        );
        let (expected, _) = cases::perform(disk, verb, true);
        assert_eq!(guard.files.read(), expected, "{disk:?}\n{verb:?}\n{said}");
        guard.files.is_clean();
        told += 1;
    }
    println!("the program on disk, by root's guard: {told} cases");
    assert!(told > 200, "{told}");
}
