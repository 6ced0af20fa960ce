//! Scripts send signals in one breath: one that comes too early is remembered, for a while.

use std::time::Duration;

use super::kit::*;
use crate::machine::event::{Event, Failure, FromPredecessor, FromSuccessor, Signal};
use crate::machine::{Action, Note, Phase, Timer};

fn dropped(signal: Signal) -> Action {
    Action::Note(Note::SignalDropped(signal))
}

#[test]
fn signals_sent_in_one_breath_are_carried_out_in_their_order() {
    // kill -USR2 $old; kill -WINCH $old; kill -QUIT $old
    let mut one = One::at(Phase::Serving, Automatic);
    for signal in [Signal::Usr2, Signal::Winch, Signal::Quit] {
        let _ = one.signal(signal);
    }
    let _ = one.on(Event::Launched(NEW_PID));
    let actions = one.told(FromSuccessor::Ready);
    assert_order(
        &actions,
        &[
            Action::Note(Note::SignalCarriedOut(Signal::Winch)),
            Action::ToSuccessor(FromPredecessor::Takeover),
            Action::ToSuccessor(FromPredecessor::Commit),
        ],
    );
    assert_eq!(one.armed(Timer::Remember), None);
}

#[test]
fn the_way_back_in_one_breath_leaves_the_old_one_serving() {
    // kill -HUP $old; kill -USR2 $new; kill -WINCH $new; kill -QUIT $new, in whatever order they
    // are heard.
    let mut new = One::at(Phase::Probation, Hold);
    for signal in [Signal::Usr2, Signal::Winch] {
        let actions = new.signal(signal);
        assert_eq!(actions, [Action::Note(Note::SignalRemembered(signal))]);
    }
    let actions = new.hears(FromPredecessor::Ready);
    let draining = Action::DrainWorkers {
        stop: false,
        limit: Some(Duration::from_secs(600)),
    };
    assert_order(&actions, &[Action::Quiesce, draining]);
    let _ = new.signal(Signal::Quit);
    assert_eq!(new.phase(), Phase::Draining);
}

#[test]
fn a_signal_whose_moment_does_not_come_in_start_timeout_is_dropped_and_logged() {
    let mut one = One::at(Phase::Probation, Hold);
    let _ = one.signal(Signal::Winch);
    assert_eq!(one.armed(Timer::Remember), Some(Duration::from_secs(30)));
    // A second one does not prolong it, and it outlives a phase.
    one.now += Duration::from_secs(10);
    let _ = one.signal(Signal::Usr2);
    let _ = one.on(Event::WorkersFailed("crash loop".into()));
    assert_eq!(one.phase(), Phase::Yielded);
    assert_eq!(one.armed(Timer::Remember), Some(Duration::from_secs(20)));
    assert_eq!(
        one.waits_for(Timer::Remember),
        [dropped(Signal::Winch), dropped(Signal::Usr2)]
    );
    // Later nothing is carried out.
    assert_eq!(drain(&one.hears(FromPredecessor::Ready)), None);
}

#[test]
fn a_signal_is_dropped_and_logged_when_the_launch_fails() {
    let fails: [fn() -> Event; 4] = [
        || Event::LaunchFailed(Failure::new("it is a directory")),
        closed,
        exited,
        || Event::Timer(Timer::Start),
    ];
    for failure in fails {
        for signal in [Signal::Winch, Signal::Quit] {
            let mut one = One::at(Phase::Launching, Hold);
            let _ = one.on(Event::Launched(NEW_PID));
            let _ = one.signal(signal);
            place(&one.on(failure()), &dropped(signal));
            assert_eq!(one.armed(Timer::Remember), None);
            assert!(matches!(one.phase(), Phase::Serving | Phase::Evicting));
        }
    }
}

#[test]
fn a_signal_is_remembered_once() {
    let mut one = One::at(Phase::Launching, Hold);
    assert_eq!(one.signal(Signal::Winch).len(), 1);
    assert_eq!(one.signal(Signal::Winch), []);
    let _ = one.on(Event::Launched(NEW_PID));
    let actions = one.told(FromSuccessor::Ready);
    let carried = Action::Note(Note::SignalCarriedOut(Signal::Winch));
    assert_eq!(actions.iter().filter(|a| **a == carried).count(), 1);
}

#[test]
fn winch_to_one_that_takes_back_goes_forward_again_when_it_accepts() {
    // kill -HUP $old; kill -WINCH $old
    let mut one = One::at(Phase::Reclaiming, Hold);
    assert_eq!(
        one.signal(Signal::Winch),
        [Action::Note(Note::SignalRemembered(Signal::Winch))]
    );
    let actions = one.on(Event::WorkersReady);
    assert_order(
        &actions,
        &[
            Action::Accept,
            Action::ToSuccessor(FromPredecessor::Ready),
            Action::ToSuccessor(FromPredecessor::Takeover),
        ],
    );
    assert_eq!(one.phase(), Phase::Parked);
}

#[test]
fn what_waits_is_dropped_when_one_leaves() {
    let mut one = One::at(Phase::Yielded, Hold);
    let _ = one.signal(Signal::Winch);
    place(&one.hears(retire()), &dropped(Signal::Winch));
    let mut one = One::at(Phase::Launching, Hold);
    let _ = one.signal(Signal::Winch);
    place(&one.signal(Signal::Int), &dropped(Signal::Winch));
}

#[test]
fn term_to_everybody_stops_the_service_whoever_hears_it_first() {
    // systemd and containers send it to every process.
    for setup in [
        &[Signal::Usr2][..],
        &[Signal::Usr2, Signal::Winch][..],
        &[Signal::Usr2, Signal::Winch, Signal::Hup][..],
    ] {
        for first in [OLD, NEW] {
            let mut pair = Pair::new();
            for signal in setup {
                pair.signal(OLD, *signal);
            }
            pair.both(Signal::Term, first);
            assert_eq!(pair.phases(), [], "{setup:?}, first {first}");
        }
    }
    let mut pair = Pair::new();
    pair.order(&upgrade(Automatic));
    pair.both(Signal::Term, OLD);
    assert_eq!(pair.phases(), []);
}
