//! As a service's own user. Root starts this test once more as nobody.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::*;

const NOBODY: u32 = 65534;
const DIRECTORY: &str = "HANDOVER_TEST_DIRECTORY";
const NAME: &str = "master::store::tests::unprivileged::a_service_user_keeps_its_own_directory";

#[test]
fn a_service_user_keeps_its_own_directory() {
    match std::env::var_os(DIRECTORY) {
        Some(directory) => as_nobody(Path::new(&directory)),
        None if root() => as_root(),
        None => {}
    }
}

/// A directory of nobody's with files of root's in it, as a careless deployment leaves them.
fn as_root() {
    let dir = TempDir::new().unwrap();
    chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    for (name, build) in [("handover", 1), ("release", 2), ("another", 3)] {
        put(&dir.path().join(name), &program(build));
    }
    let again = Command::new("/proc/self/exe")
        .args(["--exact", NAME, "--nocapture"])
        .env(DIRECTORY, dir.path())
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success(), "{said}{complaint}");
    assert!(said.contains("1 passed"), "{said}");
}

fn as_nobody(directory: &Path) {
    let path = directory.join("handover");
    let lab = Lab {
        _dir: None,
        root: directory.to_owned(),
        store: store(&path),
        path,
    };
    lab.store.keep_old().unwrap();
    lab.store.mark_trial(&id(2)).unwrap();
    fs::rename(directory.join("release"), &lab.path).unwrap();
    lab.store.restore(&lab.found()).unwrap();
    lab.expect(1, None, Some(2));

    fs::rename(directory.join("another"), &lab.path).unwrap();
    let bad = lab.found();
    fs::set_permissions(directory, Permissions::from_mode(0o555)).unwrap();
    for error in [
        lab.store.keep_old().unwrap_err(),
        lab.store.restore(&bad).unwrap_err(),
        lab.store.mark_trial("x").unwrap_err(),
    ] {
        assert!(error.denied(), "{error}");
        assert!(
            error.to_string().contains("must be able to write"),
            "{error}"
        );
    }
    lab.expect(3, None, Some(2));
    lab.expect_names(&["handover", "handover.rejected"]);
    fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
}
