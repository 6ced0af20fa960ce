//! A successor that leaves, or has to.

use std::time::Duration;

use super::kit::*;
use crate::machine::event::{Event, FromPredecessor, FromSuccessor, Order, Signal};
use crate::machine::{Action, OrderKind, Phase, Timer, Verdict, Who};

#[test]
fn a_new_one_told_to_leave_finishes_what_it_holds() {
    for signal in [Signal::Quit, Signal::Term] {
        let mut pair = Pair::new();
        pair.signal(OLD, Signal::Usr2);
        pair.new_one().busy = true;
        pair.signal(NEW, signal);
        assert_eq!(pair.phases(), [Phase::Evicting, Phase::Draining]);
        pair.advance(Duration::from_secs(599));
        assert_eq!(pair.phases(), [Phase::Evicting, Phase::Draining]);
        assert!(
            !pair
                .log
                .contains(&(OLD, Action::EndSuccessor(Signal::Term)))
        );
        pair.event(NEW, Event::WorkersGone);
        assert_eq!(pair.phases(), [Phase::Serving]);
    }
}

#[test]
fn a_new_one_that_does_not_own_the_service_says_that_it_leaves() {
    // An owner leaves without waiting only on INT.
    for phase in [Phase::Probation, Phase::Yielded] {
        let actions = One::at(phase, Hold).signal(Signal::Int);
        place(&actions, &Action::ToPredecessor(FromSuccessor::Leaving));
    }
    for phase in [Phase::Starting, Phase::Standby] {
        for signal in [Signal::Quit, Signal::Term, Signal::Int] {
            let actions = One::at(phase, Hold).signal(signal);
            assert_order(
                &actions,
                &[
                    Action::ToPredecessor(FromSuccessor::Leaving),
                    Action::ClosePredecessor,
                ],
            );
        }
    }
}

/// The old one died while it took the service back, or has passed it on since.
#[test]
fn one_that_left_the_service_to_somebody_who_is_gone_asks_who_serves() {
    let retired = || {
        let mut one = One::at(Phase::Yielded, Automatic);
        // The death is seen before the last word is read.
        let _ = one.on(Event::PredecessorExited);
        let last = FromPredecessor::Retire("rolled back".into());
        place(&one.on(Event::Predecessor(last)), &Action::SeekOwner);
        let _ = one.on(Event::WorkersGone);
        one
    };
    let busy = || {
        let mut one = One::at(Phase::Probation, Automatic);
        let _ = one.signal(Signal::Int);
        place(&one.on(Event::PredecessorExited), &Action::SeekOwner);
        one
    };
    for mut one in [busy(), retired()] {
        // Its failure starts the service anew: it is the main process by then.
        let actions = one.on(Event::OwnerAnswered(false));
        assert_order(&actions, &[Action::NameMain(Who::Me), Action::Exit(1)]);
    }
    // It has asked.
    assert_eq!(busy().on(Event::WorkersGone), [Action::DrainEnded]);
    // It may be that the whole service stops.
    let mut one = busy();
    let _ = one.signal(Signal::Term);
    place(&one.on(Event::WorkersGone), &Action::Exit(0));
    let mut one = One::at(Phase::Yielded, Automatic);
    let _ = one.on(Event::Predecessor(FromPredecessor::Retire(
        "rolled back".into(),
    )));
    let _ = one.signal(Signal::Term);
    assert!(
        !one.on(Event::PredecessorExited)
            .contains(&Action::SeekOwner)
    );
    place(&retired().on(Event::OwnerAnswered(true)), &Action::Exit(0));
}

#[test]
fn one_that_leaves_while_the_old_one_takes_back_finishes_too() {
    // The takeover and its good-bye crossed.
    let mut one = One::at(Phase::Parked, Hold);
    let _ = one.told(FromSuccessor::Leaving);
    assert_eq!(one.phase(), Phase::Reclaiming);
    let _ = one.on(closed());
    let actions = one.on(Event::WorkersReady);
    assert_eq!(one.phase(), Phase::Evicting);
    assert!(!actions.contains(&Action::EndSuccessor(Signal::Term)));
    assert_eq!(one.armed(Timer::Evict), Some(Duration::from_secs(603)));
}

#[test]
fn one_that_lets_go_of_the_channel_without_a_word_gets_term_then_kill() {
    // It sees our end close, and would believe that it is alone.
    let mut one = One::at(Phase::Beside, Hold);
    let actions = one.on(closed());
    assert!(actions.contains(&Action::EndSuccessor(Signal::Term)));
    assert_eq!(
        one.waits_for(Timer::Evict),
        [Action::KillSuccessor],
        "after {:?}",
        one.armed(Timer::Evict)
    );
}

#[test]
fn one_that_was_never_ready_gets_no_time_to_finish() {
    let mut one = One::at(Phase::Launching, Automatic);
    let _ = one.on(Event::Launched(NEW_PID));
    let actions = one.waits_for(Timer::Start);
    assert!(actions.contains(&Action::EndSuccessor(Signal::Term)));
    let _ = one.on(closed());
    assert_eq!(one.armed(Timer::Evict), Some(Duration::from_secs(3)));
    assert_eq!(one.waits_for(Timer::Evict), [Action::KillSuccessor]);
}

#[test]
fn what_comes_next_does_not_wait_for_a_rejected_one_that_only_drains() {
    let starts = |order: Order| {
        let mut one = One::at(Phase::Evicting, Automatic);
        assert_eq!(one.on(closed()), []);
        one.now += Duration::from_secs(3);
        let actions = one.order(order);
        place(&actions, &Action::LetLinger);
        assert_eq!(one.armed(Timer::Drainer), Some(Duration::from_secs(600)));
        assert!(!actions.contains(&Action::ReapSuccessor));
        actions
    };
    let launch = |next| Action::Launch { back: false, next };
    place(&starts(upgrade(Automatic)), &launch(None));
    place(&starts(Order::Reload), &Action::Reload);

    for (signal, first) in [(Signal::Usr2, launch(None)), (Signal::Hup, Action::Reload)] {
        let mut one = One::at(Phase::Evicting, Hold);
        let _ = one.on(closed());
        place(&one.signal(signal), &first);
    }

    // Neither does the upgrade that superseded it.
    let mut one = One::at(Phase::Evicting, Automatic);
    let _ = one.told(FromSuccessor::Yield {
        reason: "superseded".into(),
        retire: true,
        then: Some(next()),
    });
    place(&one.on(closed()), &launch(Some(next())));
}

#[track_caller]
fn still_leaves(actions: &[Action]) {
    let verdict = verdict(actions, OrderKind::Upgrade);
    assert!(matches!(verdict, Some(Verdict::Refused(_))), "{actions:?}");
}

#[test]
fn one_that_holds_the_channel_or_had_to_be_told_twice_is_waited_for() {
    let mut one = One::at(Phase::Evicting, Automatic);
    still_leaves(&one.order(upgrade(Automatic)));
    let _ = one.waits_for(Timer::Evict);
    let _ = one.on(closed());
    still_leaves(&one.order(upgrade(Automatic)));
    // It is gone, and the service is ours: as ever.
    place(&one.on(exited()), &Action::ReapSuccessor);
}
