//! The service stops.

use std::time::Duration;

use super::kit::*;
use crate::machine::event::{Event, FromPredecessor, FromSuccessor, Order, Signal};
use crate::machine::{Action, Note, OrderKind, Phase, Timer, Verdict};

const STOP: Option<Duration> = Some(Duration::from_secs(8));

#[test]
fn a_released_successor_has_the_time_of_a_stop_and_nobody_to_pass_on_to() {
    for mode in [Automatic, Hold] {
        for phase in [
            Phase::Starting,
            Phase::Standby,
            Phase::Probation,
            Phase::Committing,
            Phase::Yielded,
        ] {
            let mut one = One::at(phase, mode);
            let actions = one.hears(FromPredecessor::Release);
            assert_eq!(drain(&actions), Some((true, STOP)), "{phase}");
            assert_eq!(one.phase(), Phase::Draining);
            assert!(!actions.contains(&Action::NotifyStopping), "{phase}");
        }
    }
}

#[test]
fn a_parked_master_is_released_too() {
    let mut one = One::at(Phase::Launching, Automatic);
    let _ = one.on(Event::Launched(NEW_PID));
    let _ = one.told(FromSuccessor::Ready);
    assert_eq!(one.phase(), Phase::Parked);
    let actions = one.told(FromSuccessor::Release);
    assert_eq!(drain(&actions), Some((true, STOP)));
    assert!(!actions.contains(&Action::NotifyStopping));
}

#[test]
fn an_order_to_stop_that_crosses_a_rollback_stops_both_at_once() {
    // The successor owned the service when it was ordered; then its predecessor took it back.
    for (phase, mode) in [(Phase::Beside, Hold), (Phase::Evicting, Automatic)] {
        let mut old = One::at(phase, mode);
        let actions = old.told(FromSuccessor::Release);
        assert_eq!(old.phase(), Phase::Draining);
        place(&actions, &Action::ToSuccessor(FromPredecessor::Release));

        let mut new = One::at(Phase::Probation, mode);
        let actions = new.order(Order::Stop);
        place(&actions, &Action::ToPredecessor(FromSuccessor::Release));
        let _ = new.on(Event::WorkersGone);
        assert_eq!(new.phase(), Phase::Draining, "it waits for the other one");
        // Each waits for the other's end: one of them must not.
        let actions = new.hears(FromPredecessor::Release);
        place(&actions, &Action::Exit(0));
        assert!(!actions.contains(&Action::NotifyStopping));

        let _ = old.on(Event::WorkersGone);
        let actions = old.on(exited());
        assert_order(&actions, &[Action::NotifyStopping, Action::Exit(0)]);
    }
}

#[test]
fn a_stop_in_probation_releases_the_parked_one_first() {
    let mut pair = Pair::new();
    pair.order(&upgrade(Automatic));
    assert_eq!(pair.phases(), [Phase::Parked, Phase::Probation]);
    assert_eq!(pair.order(&Order::Stop), Some(Verdict::Done));
    assert_eq!(pair.phases(), []);
    let said: Vec<usize> = pair
        .log
        .iter()
        .filter(|(_, a)| *a == Action::NotifyStopping)
        .map(|(who, _)| *who)
        .collect();
    assert_eq!(said, [NEW], "by the last one only");
}

#[test]
fn a_parked_one_that_does_not_leave_is_killed_when_the_service_stops() {
    let mut one = One::at(Phase::Probation, Automatic);
    let _ = one.order(Order::Stop);
    let _ = one.on(Event::WorkersGone);
    assert_eq!(one.armed(Timer::Commit), Some(Duration::from_secs(13)));
    assert_eq!(one.waits_for(Timer::Commit), [Action::KillPredecessor]);
    assert_eq!(one.on(Event::PredecessorClosed), []);
    assert_order(
        &one.on(Event::PredecessorExited),
        &[Action::NotifyStopping, Action::Exit(0)],
    );
}

#[test]
fn stopping_is_said_once_and_only_when_no_other_generation_lives() {
    let mut one = One::at(Phase::Probation, Automatic);
    let mut actions = one.order(Order::Stop);
    actions.extend(one.on(Event::WorkersGone));
    assert!(!actions.contains(&Action::NotifyStopping));
    // The pidfd may be faster than EOF.
    assert_order(
        &one.on(Event::PredecessorExited),
        &[Action::NotifyStopping, Action::Exit(0)],
    );

    let mut one = One::at(Phase::Probation, Automatic);
    let _ = one.order(Order::Stop);
    // Its workers may drain when it has let go of the channel.
    assert_eq!(one.on(Event::PredecessorClosed), []);
    assert_eq!(one.on(Event::PredecessorExited), [Action::NotifyStopping]);
}

#[test]
fn a_second_order_to_stop_waits_for_the_same_end() {
    // An ExecStop= client that returned at once would let systemd go on to SIGKILL.
    let mut one = One::at(Phase::Serving, Automatic);
    let _ = one.order(Order::Stop);
    assert_eq!(one.order(Order::Stop), []);
    let actions = one.on(Event::WorkersGone);
    assert_eq!(verdict(&actions, OrderKind::Stop), Some(&Verdict::Done));

    let mut one = One::at(Phase::Standby, Automatic);
    let _ = one.hears(retire());
    assert_eq!(one.phase(), Phase::Draining);
    let actions = one.order(Order::Stop);
    assert!(matches!(
        verdict(&actions, OrderKind::Stop),
        Some(Verdict::Refused(_))
    ));
}

#[test]
fn one_that_does_not_own_the_service_refuses_to_stop_it() {
    for phase in [Phase::Starting, Phase::Standby] {
        let mut one = One::at(phase, Automatic);
        let actions = one.order(Order::Stop);
        assert!(matches!(
            verdict(&actions, OrderKind::Stop),
            Some(Verdict::Refused(_))
        ));
        assert_eq!(one.phase(), phase);
    }
}

#[test]
fn term_before_there_is_a_new_one_stops_the_service() {
    // systemd or a container stops us in the middle of a pre-flight; nobody else could serve.
    let mut one = One::at(Phase::Launching, Automatic);
    let actions = one.signal(Signal::Term);
    assert_order(&actions, &[Action::CancelLaunch, Action::NotifyStopping]);
    assert_eq!(one.phase(), Phase::Draining);

    let mut one = One::at(Phase::Launching, Automatic);
    let _ = one.on(Event::Launched(NEW_PID));
    assert_eq!(
        one.signal(Signal::Term),
        [Action::Note(Note::SignalRemembered(Signal::Term))]
    );
}

#[test]
fn quit_lets_a_draining_predecessor_finish_and_term_does_not() {
    for (signal, terms) in [(Signal::Quit, false), (Signal::Term, true)] {
        let mut one = One::at(Phase::Committing, Automatic);
        let _ = one.on(Event::PredecessorClosed);
        assert_eq!(one.phase(), Phase::Serving);
        let actions = one.signal(signal);
        assert_eq!(
            actions.contains(&Action::EndDrainer(OLD_PID, Signal::Term)),
            terms
        );
        // One that hangs is killed all the same.
        let limit = if terms { 13 } else { 605 };
        assert_eq!(one.armed(Timer::Drainer), Some(Duration::from_secs(limit)));
        let _ = one.on(Event::WorkersGone);
        assert_eq!(one.phase(), Phase::Draining, "it waits for the other one");
        place(&one.on(Event::PredecessorExited), &Action::Exit(0));
    }
}

#[test]
fn a_stop_does_not_wait_for_a_successor_that_cannot_read_yet() {
    // It may still be on its way to its inheritance; it holds nothing.
    let mut one = One::at(Phase::Launching, Automatic);
    let _ = one.on(Event::Launched(NEW_PID));
    let actions = one.order(Order::Stop);
    place(&actions, &Action::EndSuccessor(Signal::Term));
    // A ready one has the time of a stop.
    let mut one = One::at(Phase::Beside, Hold);
    let actions = one.order(Order::Stop);
    assert!(!actions.contains(&Action::EndSuccessor(Signal::Term)));
    assert_eq!(one.armed(Timer::Evict), STOP);
    assert_eq!(
        one.waits_for(Timer::Evict),
        [Action::EndSuccessor(Signal::Term)]
    );
    assert_eq!(one.waits_for(Timer::Evict), [Action::KillSuccessor]);
}

/// `kill -INT` twice, and INT after `stop`: nobody is waited for because an earlier word gave it time.
#[test]
fn int_ends_a_successor_that_has_time_left() {
    let evict = Some(Duration::from_secs(3));
    for (phase, mode) in [(Phase::Evicting, Automatic), (Phase::Beside, Hold)] {
        let mut one = One::at(phase, mode);
        one.machine.timing.stop = Duration::from_secs(60);
        if phase == Phase::Beside {
            let _ = one.order(Order::Stop);
            assert_eq!(one.armed(Timer::Evict), Some(Duration::from_secs(60)));
        }
        let actions = one.signal(Signal::Int);
        place(&actions, &Action::EndSuccessor(Signal::Int));
        assert_eq!(one.armed(Timer::Evict), evict, "{phase}");
        let _ = one.on(Event::WorkersGone);
        assert_eq!(one.signal(Signal::Int), [], "{phase}: it was told");
        assert_eq!(one.waits_for(Timer::Evict), [Action::KillSuccessor]);
    }
}

#[test]
fn int_ends_a_predecessor_that_has_not_let_go_yet() {
    let mut one = One::at(Phase::Probation, Automatic);
    let _ = one.order(Order::Stop);
    let _ = one.signal(Signal::Int);
    let evict = Some(Duration::from_secs(3));
    assert_eq!(one.armed(Timer::Commit), evict);
    let mut hangs = one.clone();
    assert_eq!(hangs.waits_for(Timer::Commit), [Action::KillPredecessor]);
    let end = Action::EndDrainer(OLD_PID, Signal::Int);
    assert_eq!(one.on(Event::PredecessorClosed), [end]);
    assert_eq!(one.armed(Timer::Drainer), evict);
}

#[test]
fn a_released_predecessor_that_has_let_go_is_one_of_those_that_drain() {
    let mut one = One::at(Phase::Probation, Automatic);
    let _ = one.order(Order::Stop);
    let _ = one.on(Event::PredecessorClosed);
    assert_eq!(one.armed(Timer::Commit), None);
    let end = [Action::KillDrainer(OLD_PID)];
    assert_eq!(
        one.waits_for(Timer::Drainer),
        end,
        "once, and not for holding on"
    );
}

/// What it holds ends at its own deadline; but one that hangs must not hold up the stop for ever.
#[test]
fn quit_keeps_the_deadline_of_a_rejected_successor() {
    let mut one = One::at(Phase::Evicting, Automatic);
    let _ = one.on(closed());
    let left = one.armed(Timer::Evict);
    assert_eq!(left, Some(Duration::from_secs(603)));
    let _ = one.signal(Signal::Quit);
    assert_eq!(one.armed(Timer::Evict), left);
}

/// It was given the time of a drain, and nobody waits for that when the service stops.
#[test]
fn a_rejected_generation_that_only_drains_hears_of_a_stop_at_once() {
    for (how, limit) in [(Signal::Term, 13), (Signal::Int, 3)] {
        let mut one = One::at(Phase::Evicting, Automatic);
        let _ = one.on(closed());
        place(&one.signal(how), &Action::EndSuccessor(how));
        assert_eq!(one.armed(Timer::Evict), Some(Duration::from_secs(limit)));
    }
}

/// It was sent away, and its workers have not said yet that they accept no more.
#[test]
fn a_rejected_generation_that_has_not_let_go_hears_of_a_stop_at_once() {
    let mut old = One::at(Phase::Evicting, Automatic);
    let actions = old.order(Order::Stop);
    place(&actions, &Action::EndSuccessor(Signal::Term));
    assert_eq!(old.armed(Timer::Evict), Some(Duration::from_secs(13)));

    let mut new = slow(Phase::Yielded, Automatic);
    assert_eq!(
        drain(&new.hears(retire())),
        Some((false, Some(Duration::from_secs(600))))
    );
    let actions = new.hears(FromPredecessor::Release);
    assert_eq!(drain(&actions), Some((true, STOP)));
    place(&new.on(Event::WorkersGone), &Action::Exit(0));
}

#[test]
fn a_predecessor_that_has_not_let_go_hears_of_a_stop_in_the_middle_of_a_commit() {
    let mut old = slow(Phase::Launching, Automatic);
    let _ = old.on(Event::Launched(NEW_PID));
    let _ = old.told(FromSuccessor::Ready);
    let actions = old.told(FromSuccessor::Commit);
    assert!(!actions.contains(&Action::CloseSuccessor), "{actions:#?}");
    let actions = old.told(FromSuccessor::Release);
    assert_eq!(drain(&actions), Some((true, STOP)));
    assert!(!actions.contains(&Action::NotifyStopping));
    place(&old.on(Event::WorkersGone), &Action::Exit(0));
}
