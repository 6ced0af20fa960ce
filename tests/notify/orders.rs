//! The unit's commands: `ExecReload=` is the image of the main process with `apply`, its exit code
//! is the verdict.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use crate::kit::client::Load;
use crate::kit::manager::{Active, Unit};
use crate::kit::service::{SOON, Service};
use crate::scene::{APPLY, NEXT, commit, messages, next, serving, upgrade};

/// `systemctl reload`: its exit code.
#[track_caller]
fn reload(service: &Service) -> i32 {
    let reloaded = service.manager().reload(&APPLY);
    service.note(&format!("reload: {reloaded:?}"));
    let code = reloaded.status.and_then(|s| s.code());
    code.unwrap_or_else(|| panic!("no exit code: {reloaded:?}\n{}", service.log_text()))
}

#[test]
fn a_reload_upgrades_to_what_is_on_disk_and_then_changes_nothing_more() {
    let service = serving(Service::setup("apply"));
    let load = Load::start(service.load("http").fresh().connections(2));
    load.wait_answers(20, SOON);
    service.replace(&next());
    assert_eq!(reload(&service), 0);
    let status = service.wait_owner(2, "probation");
    assert_eq!(status.version, NEXT);
    let manager = service.manager();
    assert_eq!(manager.main(), Some(status.owner_pid));
    // systemd merges what came meanwhile into one more run.
    for _ in 0..2 {
        assert_eq!(reload(&service), 0);
        assert_eq!(service.status().unwrap().owner_pid, status.owner_pid);
    }
    commit(&service);
    assert_eq!(reload(&service), 0);
    assert_eq!(service.status().unwrap().owner_pid, status.owner_pid);
    load.wait_answers(20, SOON);
    load.stop().assert_clean();
    assert_eq!(manager.look(|s| (s.active, s.starts)), (Active::Running, 1));
}

#[test]
fn a_reload_with_the_same_program_takes_the_new_configuration_or_says_why_not() {
    let service = serving(Service::setup("apply_config"));
    assert_eq!(service.workers(1).len(), 2);
    service.write_config("workers = 3");
    assert_eq!(reload(&service), 0);
    service.wait_processes("three workers", |_| service.workers(1).len() == 3);
    service.write_config("workers = \"many\"");
    assert_eq!(reload(&service), 78);
    assert_eq!(service.manager().look(|s| s.active), Active::Running);
    let log = service.log_text();
    assert!(log.contains("many"), "{log}");
    assert_eq!(service.wait_phase("serving").generation, 1);
}

#[test]
fn a_bad_release_makes_the_reload_fail_and_is_not_tried_again() {
    let service = serving(Service::setup("apply_bad"));
    let g1 = service.master(1).pid;
    let manager = service.manager();
    let load = Load::start(service.load("http").fresh());
    service.replace(Path::new("/bin/false"));
    assert_eq!(reload(&service), 1);
    let state = manager.look(|s| (s.active, s.main, s.starts));
    assert_eq!(state, (Active::Running, Some(g1), 1));
    let status = service.wait_owner(1, "serving");
    assert!(status.disk.matches_running, "{:?}", status.disk);
    // The same file again, as a configuration tool would do it.
    service.replace(Path::new("/bin/false"));
    let log = service.log_text().len();
    assert_eq!(reload(&service), 0);
    let said = service.log_text()[log..].to_owned();
    assert!(said.contains("rejected"), "{said}");
    load.wait_answers(10, SOON);
    load.stop().assert_clean();
    assert_eq!(manager.main(), Some(g1));
}

/// A release that was not wanted is replaced by the next one: what is in probation goes first.
#[test]
fn a_reload_in_a_probation_supersedes_what_is_in_it() {
    let service = serving(Service::setup("apply_supersede"));
    let g1 = service.master(1).pid;
    upgrade(&service);
    let third = crate::kit::build::other_version("3.0.0");
    service.replace(&third);
    assert_eq!(reload(&service), 0);
    let status = service.wait_status("the third release", |s| s.version == "3.0.0");
    assert_eq!(service.manager().main(), Some(status.owner_pid));
    commit(&service);
    assert_ne!(service.manager().main(), Some(g1));
}

/// The unit's `User=`: nobody, here.
fn as_nobody(mut unit: Unit) -> Unit {
    let program = std::mem::replace(&mut unit.program, "setpriv".into());
    let mut args: Vec<_> = NOBODY.iter().map(Into::into).collect();
    args.push(program.into());
    args.append(&mut unit.args);
    unit.args = args;
    unit
}

const NOBODY: [&str; 4] = [
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--no-new-privs",
];

fn give_away(path: &Path) {
    for entry in std::fs::read_dir(path).expect("a directory").flatten() {
        if entry.path().is_dir() {
            give_away(&entry.path());
        }
        chown(entry.path(), Some(65534), Some(65534)).expect("another owner");
    }
    chown(path, Some(65534), Some(65534)).expect("another owner");
}

#[test]
fn the_unit_s_commands_run_as_its_user_and_may_order() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    next();
    let service = Service::setup("user").prepare();
    give_away(service.dir());
    std::fs::File::create(&service.log).expect("a log");
    give_away(service.dir());
    let service = service.start_under_manager(as_nobody);
    let manager = service.manager();
    manager.wait_ready();
    service.wait_owner(1, "serving");
    let mut command: Vec<&str> = vec!["setpriv"];
    command.extend(NOBODY);
    command.extend(APPLY);
    service.replace(&next());
    chown(&service.program, Some(65534), Some(65534)).expect("its file");
    let reloaded = manager.reload(&command);
    let code = reloaded.status.and_then(|s| s.code());
    assert_eq!(code, Some(0), "{}", service.log_text());
    service.wait_owner(2, "probation");
    // Somebody else may not.
    let socket = service.runtime.join("control.sock");
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).expect("its mode");
    for dir in [service.dir(), &service.runtime] {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).expect("its mode");
    }
    command[1..3].copy_from_slice(&["--reuid=12345", "--regid=12345"]);
    let reloaded = manager.reload(&command);
    assert_ne!(reloaded.status.and_then(|s| s.code()), Some(0));
    let strange = std::process::Command::new("setpriv")
        .args(["--reuid=12345", "--regid=12345", "--clear-groups", "--"])
        .arg(crate::kit::build::own())
        .arg("--runtime-dir")
        .arg(&service.runtime)
        .arg("commit")
        .output()
        .expect("setpriv runs");
    let said = String::from_utf8_lossy(&strange.stderr);
    assert_eq!(strange.status.code(), Some(77), "{said}");
    assert!(said.contains("uid 12345 may not give orders"), "{said}");
    service.wait_owner(2, "probation");
    assert!(messages(&service, |m| m.uid != 65534).is_empty());
}
