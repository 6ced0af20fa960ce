//! Root's client for a service of another user, here nobody's `sleep`.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use super::*;
use crate::master::store::deputy::{self, DeputyError};

const NOBODY: u32 = 65534;

/// A running service; it ends with the value.
struct Owner(Child);

impl Owner {
    fn starts(program: &Path, user: u32) -> Self {
        let mut command = Command::new(program);
        Self(command.arg("1000").uid(user).gid(user).spawn().unwrap())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Root's directory, the program in it, another release beside.
fn installed() -> Option<(TempDir, PathBuf)> {
    if !root() {
        eprintln!("skipped: only root has deputies");
        return None;
    }
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("handover");
    fs::copy("/bin/sleep", &path).unwrap();
    put(&dir.path().join("next"), &program(2));
    Some((dir, path))
}

#[test]
fn root_keeps_the_way_back_and_goes_it() {
    let Some((dir, path)) = installed() else {
        return;
    };
    let sleep = build_at(&path).unwrap();
    let owner = Owner::starts(&path, NOBODY);
    fs::rename(dir.path().join("next"), &path).unwrap();
    assert!(deputy::keep_way_back(&path, owner.0.id()).unwrap());
    let beside = |suffix: &str| dir.path().join(format!("handover{suffix}"));
    assert_eq!(build_at(&beside(OLD)), Some(sleep.clone()));
    let trial = fs::read_to_string(beside(TRIAL)).unwrap();
    assert_eq!(trial.trim_end(), id(2));
    assert!(deputy::put_back(&path, owner.0.id()).unwrap());
    assert_eq!(build_at(&path), Some(sleep));
    assert_eq!(build_at(&beside(REJECTED)), Some(id(2)));
    assert!(!beside(TRIAL).exists());
    // Done already.
    assert!(!deputy::put_back(&path, owner.0.id()).unwrap());
}

#[test]
fn a_service_of_roots_does_it_itself() {
    let Some((dir, path)) = installed() else {
        return;
    };
    let owner = Owner::starts(&path, 0);
    assert!(!deputy::keep_way_back(&path, owner.0.id()).unwrap());
    assert!(!dir.path().join("handover.trial").exists());
}

#[test]
fn root_is_not_led_elsewhere() {
    let Some((dir, path)) = installed() else {
        return;
    };
    let elsewhere = TempDir::new().unwrap();
    let victim = elsewhere.path().join("victim");
    put(&victim, &program(3));
    let owner = Owner::starts(&path, NOBODY);
    // A program of its own making, or in a directory of its own.
    let evil = dir.path().join("evil");
    fs::copy("/bin/sleep", &evil).unwrap();
    chown(&evil, Some(NOBODY), None).unwrap();
    let own = TempDir::new().unwrap();
    chown(own.path(), Some(NOBODY), None).unwrap();
    fs::copy("/bin/sleep", own.path().join("sleep")).unwrap();
    let evils = [
        Owner::starts(&evil, NOBODY),
        Owner::starts(&own.path().join("sleep"), NOBODY),
    ];
    for (program, owner) in [
        (&victim, &owner),
        (&path, &evils[0]),
        (&own.path().join("sleep"), &evils[1]),
    ] {
        for led in [deputy::keep_way_back, deputy::put_back] {
            let error = led(program, owner.0.id()).unwrap_err();
            assert!(
                matches!(error, DeputyError::NotBelieved { .. }),
                "{error}, {program:?}"
            );
        }
    }
    assert_eq!(build_at(&victim), Some(id(3)));
    for dir in [&elsewhere, &own] {
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
