//! Which deadlines run in which phase, and how long they are.

use std::time::Duration;

use super::kit::*;
use crate::machine::event::{Event, FromPredecessor, FromSuccessor, Order, Signal};
use crate::machine::{Action, Machine, Phase, Timer, Timing};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The default timing: start 30 s, probation 60 s + 15 s, silence 10 s, commit 5 s, evict 3 s,
/// drain 600 s, stop 8 s.
fn expected(phase: Phase, mode: Mode) -> Vec<(Timer, Duration)> {
    let beat = (Timer::Heartbeat, Duration::from_millis(2500));
    match (phase, mode) {
        // The predecessor's deadline counts, and what we do not say yet it does not miss.
        (
            Phase::Starting | Phase::Serving | Phase::Reclaiming | Phase::Draining | Phase::Done,
            _,
        ) => vec![],
        (Phase::Reloading, _) => vec![(Timer::Reload, secs(30))],
        (Phase::Standby, _) | (Phase::Probation, Hold) => vec![beat],
        (Phase::Probation, Automatic) => vec![(Timer::Probation, secs(60)), beat],
        (Phase::Committing, _) => vec![beat, (Timer::Commit, secs(5))],
        (Phase::Yielded, _) => vec![beat, (Timer::Commit, secs(33))],
        (Phase::Launching, _) => vec![(Timer::Start, secs(33))],
        (Phase::Beside, _) | (Phase::Parked, Hold) => vec![(Timer::Silence, secs(10))],
        (Phase::Parked, Automatic) => {
            vec![(Timer::Silence, secs(10)), (Timer::DeadMan, secs(75))]
        }
        (Phase::Evicting, _) => vec![(Timer::Evict, secs(4))],
    }
}

#[test]
fn each_phase_has_its_deadlines_and_no_others() {
    for (phase, mode) in phases() {
        let one = One::at(phase, mode);
        let armed: Vec<(Timer, Duration)> = Timer::ALL
            .into_iter()
            .filter_map(|t| one.armed(t).map(|d| (t, d)))
            .collect();
        assert_eq!(armed, expected(phase, mode), "{phase}, {mode:?}");
        let next = expected(phase, mode).into_iter().map(|x| x.1).min();
        let deadline = one.machine.deadline().map(|at| at - one.now);
        assert_eq!(deadline, next, "{phase}, {mode:?}");
    }
}

#[test]
fn a_cold_start_has_a_deadline_of_its_own_and_so_has_an_orphan() {
    let (first, _) = One::first();
    assert_eq!(first.armed(Timer::Start), Some(secs(30)));
    let mut orphan = One::at(Phase::Starting, Automatic);
    let _ = orphan.on(Event::PredecessorClosed);
    assert_eq!(orphan.armed(Timer::Start), Some(secs(30)));
}

#[test]
fn a_master_that_slept_itself_waits_once_more_before_it_calls_the_other_one_silent() {
    let mut one = One::at(Phase::Parked, Automatic);
    // A virtual machine was paused for a minute: the heartbeats are still to be read.
    one.now += secs(60);
    assert_eq!(one.on(Event::Timer(Timer::Silence)), []);
    assert_eq!(one.armed(Timer::Silence), Some(secs(10)));
    // Awake, it is as strict as ever.
    let actions = one.waits_for(Timer::Silence);
    assert!(enters(&actions, Phase::Reclaiming));
}

/// A virtual machine was paused in a probation that had nearly passed: the successor, which slept as
/// long, commits now.
#[test]
fn a_master_that_slept_itself_does_not_take_a_healthy_release_back() {
    let mut one = One::at(Phase::Parked, Automatic);
    one.now += secs(600);
    assert_eq!(one.on(Event::Timer(Timer::Silence)), []);
    assert_eq!(one.on(Event::Timer(Timer::DeadMan)), []);
    assert_eq!(one.phase(), Phase::Parked);
    let _ = one.told(FromSuccessor::Commit);
    assert_eq!(one.phase(), Phase::Done);
    // One that does not commit is taken back all the same.
    let mut one = One::at(Phase::Parked, Automatic);
    one.now += secs(600);
    let _ = one.on(Event::Timer(Timer::DeadMan));
    let actions = one.waits_for(Timer::DeadMan);
    assert!(enters(&actions, Phase::Reclaiming));
}

/// So do those whom it waits for: a virtual machine is paused as a whole.
#[test]
fn a_master_that_slept_itself_kills_nobody_and_gives_nothing_up() {
    let beat = |one: &mut One| one.now += secs(600);
    let mut one = One::first().0;
    beat(&mut one);
    assert_eq!(one.on(Event::Timer(Timer::Start)), []);
    assert_eq!(one.armed(Timer::Start), Some(secs(30)));
    for (phase, timer, more) in [
        (Phase::Launching, Timer::Start, 30),
        (Phase::Reloading, Timer::Reload, 30),
        (Phase::Committing, Timer::Commit, 13),
        (Phase::Yielded, Timer::Commit, 30),
        (Phase::Evicting, Timer::Evict, 3),
    ] {
        let mut one = One::at(phase, Automatic);
        beat(&mut one);
        assert_eq!(one.on(Event::Timer(timer)), [], "{phase}");
        assert_eq!(one.armed(timer), Some(secs(more)), "{phase}");
        // Awake, it is as strict as ever.
        assert_ne!(one.waits_for(timer), [], "{phase}");
    }
}

/// A machine that is always late would wait for ever otherwise.
#[test]
fn a_master_that_sleeps_again_and_again_waits_once_more_only_once() {
    for (phase, timer) in [
        (Phase::Launching, Timer::Start),
        (Phase::Reloading, Timer::Reload),
        (Phase::Committing, Timer::Commit),
        (Phase::Parked, Timer::Silence),
        (Phase::Parked, Timer::DeadMan),
        (Phase::Evicting, Timer::Evict),
    ] {
        let mut one = One::at(phase, Automatic);
        one.now += secs(600);
        assert_eq!(one.on(Event::Timer(timer)), [], "{phase}");
        one.now += secs(600);
        assert_ne!(one.on(Event::Timer(timer)), [], "{phase}");
    }
    // One that has been heard in between is not the one that was waited for.
    let mut one = One::at(Phase::Parked, Automatic);
    for _ in 0..3 {
        one.now += secs(600);
        assert_eq!(one.on(Event::Timer(Timer::Silence)), []);
        let _ = one.told(FromSuccessor::Heartbeat);
    }
}

/// It was to be killed soon.
#[test]
fn a_predecessor_that_is_in_a_hurry_to_stop_is_given_no_more_than_that() {
    let mut one = One::at(Phase::Probation, Automatic);
    let _ = one.order(Order::Stop);
    let _ = one.signal(Signal::Int);
    assert_eq!(one.armed(Timer::Commit), Some(secs(3)));
    one.now += secs(600);
    assert_eq!(one.on(Event::Timer(Timer::Commit)), []);
    assert_eq!(one.armed(Timer::Commit), Some(secs(3)));
}

#[test]
fn a_generation_that_drains_may_leave_by_itself_after_all_have_slept() {
    let mut one = One::at(Phase::Committing, Automatic);
    let _ = one.on(Event::PredecessorClosed);
    one.now += secs(6000);
    assert_eq!(one.on(Event::Timer(Timer::Drainer)), []);
    assert_eq!(one.armed(Timer::Drainer), Some(secs(5)));
    one.now += secs(6000);
    let killed = [Action::KillDrainer(OLD_PID)];
    assert_eq!(one.on(Event::Timer(Timer::Drainer)), killed);
}

#[test]
fn every_word_of_the_successor_prolongs_its_silence() {
    for (phase, mode) in [
        (Phase::Beside, Hold),
        (Phase::Parked, Hold),
        (Phase::Parked, Automatic),
    ] {
        let mut one = One::at(phase, mode);
        one.now += secs(9);
        assert_eq!(one.armed(Timer::Silence), Some(secs(1)));
        let _ = one.told(FromSuccessor::Heartbeat);
        assert_eq!(one.armed(Timer::Silence), Some(secs(10)));
    }
}

#[test]
fn heartbeats_do_not_prolong_the_dead_mans_switch() {
    let mut one = One::at(Phase::Parked, Automatic);
    one.now += secs(9);
    let _ = one.told(FromSuccessor::Heartbeat);
    assert_eq!(one.armed(Timer::DeadMan), Some(secs(66)));
}

#[test]
fn a_heartbeat_is_never_late_because_of_a_change_of_phase() {
    let mut one = One::at(Phase::Standby, Automatic);
    one.now += secs(2);
    let _ = one.hears(FromPredecessor::Takeover);
    assert_eq!(
        one.armed(Timer::Heartbeat),
        Some(Duration::from_millis(500))
    );
}

#[test]
fn the_dead_mans_switch_is_the_probation_of_this_upgrade_and_a_margin() {
    let mut one = One::at(Phase::Launching, Automatic);
    one.machine.set_probation(secs(5));
    let _ = one.on(Event::Launched(NEW_PID));
    let _ = one.told(FromSuccessor::Ready);
    assert_eq!(one.armed(Timer::DeadMan), Some(secs(20)));
}

#[test]
fn a_well_successor_commits_before_the_dead_mans_switch() {
    let mut pair = Pair::new();
    pair.order(&upgrade(Automatic));
    pair.advance(secs(59));
    assert_eq!(pair.phases(), [Phase::Parked, Phase::Probation]);
    assert_eq!(pair.new_one().one.armed(Timer::Probation), Some(secs(1)));
    pair.advance(secs(1));
    assert_eq!(pair.phases(), [Phase::Serving]);
}

#[test]
fn retire_then_term_then_kill() {
    let mut one = One::at(Phase::Evicting, Automatic);
    assert_eq!(
        one.waits_for(Timer::Evict),
        [Action::EndSuccessor(Signal::Term)]
    );
    assert_eq!(one.armed(Timer::Evict), Some(secs(3)));
    assert_eq!(one.waits_for(Timer::Evict), [Action::KillSuccessor]);
    // A kill that was lost is repeated.
    assert_eq!(one.waits_for(Timer::Evict), [Action::KillSuccessor]);
}

#[test]
fn one_that_obeys_has_the_time_of_any_drain() {
    let mut one = One::at(Phase::Evicting, Automatic);
    let _ = one.on(closed());
    assert_eq!(one.armed(Timer::Evict), Some(secs(603)));
    // None, where a drain has no limit.
    let timing = Timing {
        drain: None,
        ..Timing::default()
    };
    let mut one = One::at(Phase::Evicting, Automatic);
    one.machine.set_timing(timing);
    let _ = one.on(closed());
    assert_eq!(one.armed(Timer::Evict), None);
}

#[test]
fn one_told_to_leave_while_parked_waits_for_the_commit_only_so_long() {
    let mut one = One::at(Phase::Parked, Automatic);
    let _ = one.signal(Signal::Quit);
    assert_eq!(one.armed(Timer::Commit), Some(secs(5)));
    let _ = one.waits_for(Timer::Commit);
    assert_eq!(one.phase(), Phase::Reclaiming);
}

#[test]
fn a_predecessor_that_drains_has_the_time_of_a_drain() {
    let mut one = One::at(Phase::Committing, Automatic);
    let _ = one.on(Event::PredecessorClosed);
    assert_eq!(one.armed(Timer::Drainer), Some(secs(605)));
    // Over phases.
    let _ = one.order(Order::Reload);
    assert_eq!(one.armed(Timer::Drainer), Some(secs(605)));
    let _ = one.on(Event::PredecessorExited);
    assert_eq!(one.armed(Timer::Drainer), None);
}

#[test]
fn the_first_deadline_is_due_first_and_not_before_its_time() {
    let one = One::at(Phase::Parked, Automatic);
    let due = |machine: &Machine, after| machine.due(one.now + after);
    assert_eq!(due(&one.machine, secs(9)), None);
    assert_eq!(due(&one.machine, secs(10)), Some(Timer::Silence));
    assert_eq!(due(&one.machine, secs(100)), Some(Timer::Silence));
}

#[test]
fn a_deadline_passes_once() {
    let mut one = One::at(Phase::Parked, Automatic);
    let mut passed = 0;
    while let Some(at) = one.machine.deadline() {
        one.now = at;
        let timer = one.machine.due(at).expect("it is due");
        let _ = one.on(Event::Timer(timer));
        passed += 1;
        assert!(passed < 10, "{timer:?} comes again and again");
    }
    assert_eq!(one.phase(), Phase::Reclaiming);
}
