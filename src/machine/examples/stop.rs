//! The service stops.

use std::time::Duration;

use super::kit::*;
use crate::machine::event::{Event, FromPredecessor, FromSuccessor, Order};
use crate::machine::{Action, Phase, Timer, ToPredecessor, ToSuccessor, Verdict};

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
    let _ = one.on(Event::Launched);
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
        place(&actions, &Action::ToSuccessor(ToSuccessor::Release));

        let mut new = One::at(Phase::Probation, mode);
        let actions = new.order(Order::Stop);
        place(&actions, &Action::ToPredecessor(ToPredecessor::Release));
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
    let actions = one.on(Event::PredecessorClosed);
    place(&actions, &Action::NotifyStopping);
    let actions = one.on(Event::PredecessorExited);
    place(&actions, &Action::Exit(0));
}
