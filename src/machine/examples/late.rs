//! Events that come when nobody waits for them any more.

use super::kit::*;
use crate::machine::event::{Event, Failure, FromPredecessor, FromSuccessor, Order, Signal};
use crate::machine::{Action, OrderKind, Phase, Timer, Verdict, Who};

#[test]
fn a_process_that_exists_when_its_launch_was_given_up_is_killed_and_reaped() {
    let mut one = One::at(Phase::Launching, Automatic);
    let _ = one.order(Order::Rollback { nothing: None });
    assert_eq!(one.phase(), Phase::Serving);
    let actions = one.on(Event::Launched(NEW_PID));
    place(&actions, &Action::KillSuccessor);
    // Until it has gone no other one is started: its end would be taken for the other one's.
    assert_eq!(one.phase(), Phase::Evicting);
    let actions = one.order(upgrade(Automatic));
    assert!(matches!(
        verdict(&actions, OrderKind::Upgrade),
        Some(Verdict::Refused(_))
    ));
    assert_eq!(one.on(closed()), []);
    let actions = one.on(exited());
    place(&actions, &Action::ReapSuccessor);
    assert_eq!(one.phase(), Phase::Serving);
}

#[test]
fn a_stray_is_reaped_during_a_reload_and_does_not_end_it() {
    let mut one = One::at(Phase::Reloading, Automatic);
    assert_eq!(one.on(Event::Launched(NEW_PID)), [Action::KillSuccessor]);
    assert_eq!(one.on(closed()), []);
    assert_eq!(one.on(exited()), [Action::ReapSuccessor]);
    assert_eq!(one.on(exited()), []);
    assert_eq!(one.phase(), Phase::Reloading);
}

#[test]
fn a_stray_does_not_survive_a_stop() {
    let mut one = One::at(Phase::Launching, Automatic);
    let _ = one.signal(Signal::Quit);
    let _ = one.order(Order::Stop);
    let _ = one.on(Event::Launched(NEW_PID));
    let _ = one.on(Event::WorkersGone);
    assert_eq!(one.phase(), Phase::Draining, "it is not reaped yet");
    place(&one.on(exited()), &Action::Exit(0));
}

#[test]
fn a_launch_that_fails_after_it_was_given_up_changes_nothing() {
    let mut one = One::at(Phase::Launching, Automatic);
    let _ = one.order(Order::Rollback { nothing: None });
    assert_eq!(one.on(Event::LaunchFailed(Failure::new("late"))), []);
    assert_eq!(one.phase(), Phase::Serving);
}

#[test]
fn a_late_ready_does_not_bring_back_one_that_is_being_sent_away() {
    let mut one = One::at(Phase::Launching, Automatic);
    let _ = one.on(Event::Launched(NEW_PID));
    let _ = one.waits_for(Timer::Start);
    assert_eq!(one.phase(), Phase::Evicting);
    assert_eq!(one.told(FromSuccessor::Ready), []);
    assert_eq!(one.phase(), Phase::Evicting);
}

#[test]
fn a_late_commit_is_ignored_and_retire_still_wins() {
    for (phase, mode) in [
        (Phase::Reclaiming, Automatic),
        (Phase::Reclaiming, Hold),
        (Phase::Beside, Hold),
        (Phase::Evicting, Automatic),
    ] {
        let mut one = One::at(phase, mode);
        assert_eq!(one.told(FromSuccessor::Commit), []);
        assert_eq!(one.phase(), phase);
    }
    let mut one = One::at(Phase::Committing, Automatic);
    let _ = one.hears(retire());
    assert_eq!(one.phase(), Phase::Draining);
}

#[test]
fn a_late_takeover_reaches_one_that_has_left_as_nothing() {
    let mut one = One::at(Phase::Standby, Hold);
    let _ = one.signal(Signal::Quit);
    assert_eq!(one.hears(FromPredecessor::Takeover), []);
    assert_eq!(one.phase(), Phase::Draining);
}

#[test]
fn a_predecessor_that_lingers_does_not_disturb_the_next_upgrade() {
    // It drains after its commit while we start a successor of our own.
    let lingering = || {
        let mut one = One::at(Phase::Committing, Automatic);
        let _ = one.on(Event::PredecessorClosed);
        assert_eq!(one.phase(), Phase::Serving);
        one
    };
    // Gone while we still own the service: the "alien" mark goes now.
    let mut one = lingering();
    let _ = one.order(upgrade(Automatic));
    assert_eq!(
        one.on(Event::PredecessorExited),
        [Action::Reclaim, Action::OwnPid]
    );
    assert_eq!(one.phase(), Phase::Launching);

    // Gone beside a successor: the pid files name that one and us already.
    let mut one = lingering();
    let _ = one.signal(Signal::Usr2);
    let _ = one.on(Event::Launched(NEW_PID));
    let _ = one.told(FromSuccessor::Ready);
    assert_eq!(one.on(Event::PredecessorExited), [Action::Reclaim]);

    // Gone when the successor owns it: claiming would steal MAINPID.
    let mut one = lingering();
    let _ = one.order(upgrade(Automatic));
    let _ = one.on(Event::Launched(NEW_PID));
    let _ = one.told(FromSuccessor::Ready);
    assert_eq!(one.phase(), Phase::Parked);
    assert_eq!(
        one.armed(Timer::Drainer),
        None,
        "it is the owner's business"
    );
    assert_eq!(one.on(Event::PredecessorExited), []);
    let actions = one.on(closed());
    assert_eq!(actions[0], Action::NameMain(Who::Me));
}

#[test]
fn a_predecessor_that_hangs_after_its_commit_is_killed_in_the_end() {
    let mut one = One::at(Phase::Committing, Automatic);
    let _ = one.on(Event::PredecessorClosed);
    assert_eq!(
        one.waits_for(Timer::Drainer),
        [Action::KillDrainer(OLD_PID)]
    );
    assert_eq!(
        one.on(Event::PredecessorExited),
        [Action::Reclaim, Action::OwnPid]
    );
}

/// What one had said before we killed it is still on its way, and does not count any longer.
#[test]
fn a_predecessor_that_was_killed_is_not_obeyed() {
    for phase in [Phase::Committing, Phase::Yielded] {
        for word in [retire(), FromPredecessor::Ready, FromPredecessor::Release] {
            let mut one = One::at(phase, Automatic);
            place(&one.waits_for(Timer::Commit), &Action::KillPredecessor);
            assert_eq!(one.hears(word), []);
            assert_eq!(one.phase(), phase);
            let _ = one.on(Event::PredecessorClosed);
            assert!(!one.machine.stopping() && one.machine.owns());
        }
    }
}

/// The service manager would see the end of a main process that nobody looks after.
#[test]
fn a_rejected_successor_is_not_left_alone_while_it_is_named_main() {
    let mut one = One::at(Phase::Parked, Automatic);
    let _ = one.told(yields(true));
    let lost = Event::MainNamed {
        who: Who::Me,
        done: false,
    };
    place(
        &one.machine.step(Event::WorkersReady, one.now),
        &Action::NameMain(Who::Me),
    );
    let _ = one.machine.step(lost, one.now);
    let _ = one.on(closed());
    assert_eq!(one.phase(), Phase::Evicting);
    let lingers = |actions: &[Action]| {
        let left = |a: &Action| matches!(a, Action::LetLinger);
        actions.iter().any(left)
    };
    let actions = one.order(upgrade(Automatic));
    assert!(!lingers(&actions), "{actions:#?}");
    assert!(matches!(
        verdict(&actions, OrderKind::Upgrade),
        Some(Verdict::Refused(_))
    ));
    // It is told again, and knows.
    let _ = one.waits_for(Timer::Name);
    let actions = one.order(upgrade(Automatic));
    assert!(lingers(&actions), "{actions:#?}");
    assert_eq!(one.phase(), Phase::Launching);
}
