//! The fake service manager, against processes that do what the test says.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::kit::manager::{Active, Event, Manager, NotifyAccess, Restart, State, Unit, Verdict};
use crate::kit::proc::{self, MARKER, Process};
use crate::puppet::{Puppet, Theatre};

struct Stage {
    manager: Manager,
    theatre: Theatre,
    marker: String,
    _dir: tempfile::TempDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.manager.story());
        }
        self.manager.abandon();
        proc::kill_marked(&self.marker).expect("everything can be killed");
    }
}

fn stage(shape: impl FnOnce(&mut Unit)) -> (Stage, Puppet) {
    let dir = tempfile::tempdir().expect("a directory");
    let theatre = Theatre::open(dir.path());
    let marker = format!("stage-{:016x}", fastrand::u64(..));
    let program = std::env::current_exe().expect("a program");
    let mut unit = Unit::new(&program, &marker, dir.path());
    unit.args = Theatre::args();
    unit.env = vec![
        theatre.env(),
        (MARKER.into(), marker.clone().into()),
        ("PATH".into(), std::env::var_os("PATH").expect("a PATH")),
    ];
    shape(&mut unit);
    let manager = Manager::start(unit);
    let main = theatre.enter();
    let stage = Stage {
        manager,
        theatre,
        marker,
        _dir: dir,
    };
    (stage, main)
}

/// A child of the main process, ready, and the main process ready too.
fn pair(stage: &Stage, main: &mut Puppet) -> Puppet {
    main.does("notify READY=1");
    stage.manager.wait_ready();
    main.does("spawn");
    stage.theatre.enter()
}

#[track_caller]
fn refused_for(stage: &Stage, why: &str) {
    let refused = stage.manager.refused();
    let found = refused
        .iter()
        .any(|m| matches!(&m.verdict, Verdict::Refused(w) if w.contains(why)));
    assert!(found, "no refusal with {why:?}: {refused:#?}");
}

#[test]
fn ready_and_status_arrive_by_path_and_by_abstract_name() {
    for is_abstract in [false, true] {
        let (stage, mut main) = stage(|unit| unit.abstract_socket = is_abstract);
        assert_eq!(stage.manager.look(|s| s.active), Active::Activating);
        main.does("notify STATUS=getting up");
        main.does("notify READY=1\nSTATUS=serves");
        assert_eq!(stage.manager.wait_ready(), main.pid);
        stage.manager.look(|s| {
            assert_eq!(s.statuses(), ["getting up", "serves"]);
            assert_eq!(s.status, "serves");
            assert!(!s.main_is_alien);
            assert_eq!(s.ready_by, Some(main.pid));
        });
        assert_eq!(stage.manager.refused(), []);
    }
}

#[test]
fn a_child_becomes_an_alien_main_and_only_the_unit_s_living_processes_may() {
    let (stage, mut main) = stage(|_| ());
    let child = pair(&stage, &mut main);
    let stranger = std::process::id();
    main.does(&format!("notify MAINPID={stranger}"));
    main.does("notify MAINPID=1");
    main.does("notify MAINPID=4194303");
    main.does(&format!("notify MAINPID={}\nMAINPIDFDID=1", child.pid));
    assert_eq!(main.does("barrier"), "closed");
    for why in [
        "does not belong",
        "is the manager",
        "does not exist",
        "PIDFD",
    ] {
        refused_for(&stage, why);
    }
    assert_eq!(stage.manager.main(), Some(main.pid));

    let inode = proc::Pinned::open(child.pid).expect("a child").inode();
    main.does(&format!(
        "notify MAINPID={}\nMAINPIDFDID={inode}",
        child.pid
    ));
    stage.manager.wait_main(child.pid);
    assert!(stage.manager.look(|s| s.main_is_alien));
    assert_eq!(stage.manager.look(State::mains), [main.pid, child.pid]);
}

#[test]
fn notify_access_main_refuses_everybody_else_and_a_barrier_is_answered_all_the_same() {
    let (stage, mut main) = stage(|unit| unit.access = NotifyAccess::Main);
    let mut child = pair(&stage, &mut main);
    child.does(&format!("notify MAINPID={}", child.pid));
    assert_eq!(child.does("barrier"), "closed");
    refused_for(&stage, "only permitted for main process");
    assert_eq!(stage.manager.main(), Some(main.pid));
}

#[test]
fn a_barrier_with_company_is_refused_and_everything_with_it() {
    let (stage, mut main) = stage(|_| ());
    assert_eq!(main.does("barrier \nREADY=1"), "closed");
    refused_for(&stage, "extra messages");
    assert_eq!(stage.manager.look(|s| s.active), Active::Activating);
    assert_eq!(stage.manager.look(|s| s.barriers), 0);
    assert_eq!(main.does("barrier"), "closed");
    assert_eq!(stage.manager.look(|s| s.barriers), 1);
}

#[test]
fn a_barrier_proves_that_what_was_said_before_is_known() {
    let (stage, mut main) = stage(|_| ());
    for i in 0..50 {
        main.does(&format!("notify STATUS={i}"));
        main.does("barrier");
        assert_eq!(stage.manager.look(|s| s.status.clone()), i.to_string());
    }
}

#[test]
fn a_frozen_manager_answers_no_barrier() {
    let (stage, mut main) = stage(|_| ());
    stage.manager.freeze(true);
    main.tell("barrier");
    let early = stage.manager.look(|s| s.barriers);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(stage.manager.look(|s| s.barriers), early);
    stage.manager.freeze(false);
    stage
        .manager
        .wait_for("the barrier", |s| (s.barriers > early).then_some(()));
}

#[test]
fn the_store_keeps_names_for_the_next_start_behind_the_socket_units() {
    let (stage, mut main) = stage(|unit| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        unit.sockets.push(("http".into(), OwnedFd::from(listener)));
        unit.fdstore_max = 3;
        unit.restart_after = Duration::from_millis(10);
    });
    assert_eq!(main.does("env LISTEN_FDS"), "1");
    assert_eq!(main.does("env LISTEN_FDNAMES"), "http");
    assert_eq!(main.does("env LISTEN_PID"), main.pid.to_string());
    assert_eq!(main.does("env FDSTORE"), "3");
    main.does("store one");
    main.does("store two");
    main.does("store bad:name");
    main.does("store one-too-many");
    main.does("barrier");
    // Each was sent twice and kept once.
    assert_eq!(
        stage.manager.look(|s| s.stored().join(" ")),
        "one two stored"
    );
    refused_for(&stage, "FDNAME=bad:name is invalid");
    refused_for(&stage, "FileDescriptorStoreMax=3");
    main.does("notify FDSTOREREMOVE=1\nFDNAME=stored");
    main.does("store-pipe pipe");
    stage.manager.wait_for("the pipe to be dropped", |s| {
        let hung_up = |e: &Event| matches!(e, Event::HungUp { name } if name == "pipe");
        (s.happened(hung_up) && s.stored() == ["one", "two"]).then_some(())
    });

    main.tell("exit 3");
    let mut next = stage.theatre.enter();
    assert_eq!(next.does("env LISTEN_FDS"), "3");
    assert_eq!(next.does("env LISTEN_FDNAMES"), "http:two:one");
    assert_eq!(next.does("env LISTEN_PID"), next.pid.to_string());
    let result = stage.manager.look(|s| s.result).expect("an exit status");
    assert_eq!(result.code(), Some(3));
}

#[test]
fn the_death_of_its_own_main_process_ends_everything_and_starts_again() {
    let (stage, mut main) = stage(|_| ());
    let child = pair(&stage, &mut main);
    main.tell("exit 1");
    let next = stage.theatre.enter();
    assert_eq!(stage.manager.main(), Some(next.pid));
    assert_eq!(stage.manager.look(|s| s.starts), 2);
    assert!(Process::look(child.pid).is_none(), "the child got TERM");
}

#[test]
fn exit_0_and_prevented_exit_codes_do_not_start_again() {
    for (restart, code) in [(Restart::OnFailure, 0), (Restart::Always, 78)] {
        let (stage, mut main) = stage(|unit| unit.restart = restart);
        main.tell(&format!("exit {code}"));
        stage
            .manager
            .wait_for("the end", |s| (s.active == Active::Dead).then_some(()));
        assert_eq!(stage.manager.look(|s| s.starts), 1);
    }
}

#[test]
fn the_death_of_an_alien_main_process_is_not_noticed_until_its_parent_has_gone() {
    let (stage, mut main) = stage(|_| ());
    let mut child = pair(&stage, &mut main);
    main.does(&format!("notify MAINPID={}", child.pid));
    stage.manager.wait_main(child.pid);
    child.tell("exit 7");
    stage.manager.wait_for("the alien's death", |s| {
        s.happened(|e| matches!(e, Event::AlienMainDied { .. }))
            .then_some(())
    });
    assert_eq!(stage.manager.look(|s| s.active), Active::Running);
    assert_eq!(stage.manager.main(), Some(child.pid), "a phantom");

    // The parent never reaped it; with the parent's end the zombie is ours and its status seen.
    proc::Pinned::open(main.pid)
        .expect("the parent")
        .signal(rustix::process::Signal::KILL);
    let next = stage.theatre.enter();
    assert_eq!(stage.manager.main(), Some(next.pid));
    let result = stage.manager.look(|s| s.result).expect("an exit status");
    assert_eq!(result.code(), Some(7));
}

#[test]
fn the_old_main_process_can_take_back() {
    let (stage, mut main) = stage(|_| ());
    let mut child = pair(&stage, &mut main);
    main.does(&format!("notify MAINPID={}", child.pid));
    child.tell("exit 0");
    main.does(&format!("notify MAINPID={}", main.pid));
    main.does("barrier");
    assert_eq!(stage.manager.main(), Some(main.pid));
    assert!(!stage.manager.look(|s| s.main_is_alien));
    assert_eq!(stage.manager.look(|s| s.starts), 1);
}

#[test]
fn stop_waits_for_everybody_unless_the_main_process_is_alien_and_alone() {
    let (first, mut main) = stage(|_| ());
    pair(&first, &mut main);
    assert!(first.manager.stop(), "{}", first.manager.story());

    let (second, mut main) = stage(|_| ());
    main.does("spawn deaf");
    let child = second.theatre.enter();
    main.does(&format!("notify READY=1\nMAINPID={}", child.pid));
    second.manager.wait_main(child.pid);
    main.tell("exit 0");
    second.manager.wait_for("the parent's end", |s| {
        s.happened(|e| matches!(e, Event::Exited { pid, .. } if *pid == main.pid))
            .then_some(())
    });
    assert!(!second.manager.stop(), "{}", second.manager.story());
    second.manager.look(|s| {
        let pid = child.pid;
        assert!(s.happened(|e| *e == Event::KilledAtOnce { pid }));
    });
}

#[test]
fn who_is_deaf_to_term_is_killed_after_the_timeout() {
    let (stage, mut main) = stage(|unit| unit.timeout_stop = Duration::from_secs(2));
    main.does("spawn deaf");
    let child = stage.theatre.enter();
    assert!(!stage.manager.stop());
    assert_eq!(stage.manager.look(|s| s.killed.clone()), [child.pid]);
}

#[test]
fn stopping_is_told_with_everybody_who_still_lives() {
    let (stage, mut main) = stage(|_| ());
    let child = pair(&stage, &mut main);
    main.does("notify STOPPING=1");
    let event = stage.manager.wait_for("STOPPING=1", |s| {
        let mut events = s.events.iter().map(|(_, e)| e);
        events
            .find(|e| matches!(e, Event::Stopping { .. }))
            .cloned()
    });
    let expected = Event::Stopping {
        pid: main.pid,
        others: vec![child.pid],
    };
    assert_eq!(event, expected);
}

#[test]
fn a_watchdog_that_is_not_fed_shoots_everybody() {
    let (stage, mut main) = stage(|unit| unit.watchdog = Some(Duration::from_secs(2)));
    assert_eq!(main.does("env WATCHDOG_USEC"), "2000000");
    assert_eq!(main.does("env WATCHDOG_PID"), main.pid.to_string());
    main.does("notify READY=1");
    for _ in 0..6 {
        std::thread::sleep(Duration::from_millis(400));
        main.does("notify WATCHDOG=1");
    }
    main.does("barrier");
    assert!(
        !stage
            .manager
            .look(|s| s.happened(|e| *e == Event::WatchdogMissed))
    );
    assert_eq!(stage.manager.look(|s| s.watchdog_pings), 6);
    stage.manager.wait_for("the restart", |s| {
        (s.happened(|e| *e == Event::WatchdogMissed) && s.starts == 2).then_some(())
    });
}

#[test]
fn a_reload_reports_the_client_s_exit_code_and_may_be_extended() {
    let (stage, mut main) = stage(|unit| unit.timeout_start = Duration::from_secs(2));
    main.does("notify READY=1");
    stage.manager.wait_ready();
    let check = "test $MAINPID = \"$0\" || exit 9; exit 4";
    let reloaded = stage.manager.reload(&["sh", "-c", check, "$MAINPID"]);
    assert_eq!(reloaded.status.and_then(|s| s.code()), Some(4));
    assert_eq!(stage.manager.look(|s| s.active), Active::Running);

    let reloaded = stage.manager.reload(&["sleep", "20"]);
    assert!(reloaded.status.is_none(), "killed at the timeout");
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| stage.manager.reload(&["sleep", "3"]));
        stage.manager.wait_for("the reload", |s| {
            (s.active == Active::Reloading).then_some(())
        });
        main.does("notify EXTEND_TIMEOUT_USEC=20000000");
        let reloaded = reload.join().expect("no panic");
        assert_eq!(reloaded.status.and_then(|s| s.code()), Some(0));
    });
}

#[test]
fn a_start_that_never_gets_ready_is_ended() {
    let (stage, main) = stage(|unit| {
        unit.timeout_start = Duration::from_secs(2);
        unit.restart = Restart::No;
    });
    stage
        .manager
        .wait_for("the end", |s| (s.active == Active::Dead).then_some(()));
    assert!(Process::look(main.pid).is_none());
}

#[test]
#[should_panic(expected = "waited 50ms for a miracle")]
fn a_wait_that_is_in_vain_tells_the_story() {
    let (stage, _main) = stage(|_| ());
    let deadline = Duration::from_millis(50);
    stage
        .manager
        .wait_within("a miracle", deadline, |_| None::<()>);
}
