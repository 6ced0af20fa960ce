//! The table of phases in ARCHITECTURE.md: each way out of each phase, and no other.

use super::kit::*;
use crate::machine::Phase::{
    Beside, Committing, Done, Draining, Evicting, Launching, Parked, Probation, Reclaiming,
    Reloading, Serving, Standby, Starting, Yielded,
};
use crate::machine::event::{Event, Failure, FromPredecessor, FromSuccessor, Order, Signal};
use crate::machine::{Phase, Timer};

/// Where the machine is after these events.
fn after(phase: Phase, mode: Mode, events: &[Event]) -> Phase {
    let mut one = One::at(phase, mode);
    for event in events {
        let _ = one.on(event.clone());
    }
    one.phase()
}

fn signal(signal: Signal) -> Event {
    Event::Signal(signal)
}

fn failed() -> Event {
    Event::WorkersFailed("crash loop".into())
}

#[test]
fn starting_leaves_when_the_workers_are_ready() {
    assert_eq!(after(Starting, Automatic, &[Event::WorkersReady]), Standby);
    let alone = [Event::PredecessorClosed, Event::WorkersReady];
    assert_eq!(after(Starting, Automatic, &alone), Serving);
    let (mut first, _) = One::first();
    let _ = first.on(Event::WorkersReady);
    assert_eq!(first.phase(), Serving);
}

#[test]
fn starting_that_fails_ends_the_process_unless_a_predecessor_sends_it_away() {
    // A cold start that does not come up fails with its deadline or its workers' budget.
    for event in [failed(), Event::Timer(Timer::Start)] {
        let (mut first, _) = One::first();
        let actions = first.on(event);
        place(&actions, &crate::machine::Action::Exit(1));
        assert_eq!(first.phase(), Done);
    }
    // A successor asks to be sent away, and waits for that.
    assert_eq!(after(Starting, Automatic, &[failed()]), Starting);
    let sent_away = [failed(), Event::Predecessor(retire())];
    assert_eq!(after(Starting, Automatic, &sent_away), Draining);
    let orphaned = [Event::PredecessorClosed, failed()];
    assert_eq!(after(Starting, Automatic, &orphaned), Done);
}

#[test]
fn standby_leaves_by_takeover_retire_or_eof() {
    let takeover = Event::Predecessor(FromPredecessor::Takeover);
    for mode in [Automatic, Hold] {
        assert_eq!(
            after(Standby, mode, std::slice::from_ref(&takeover)),
            Probation
        );
        let retired = [Event::Predecessor(retire())];
        assert_eq!(after(Standby, mode, &retired), Draining);
        assert_eq!(after(Standby, mode, &[Event::PredecessorClosed]), Serving);
        assert_eq!(after(Standby, mode, &[failed()]), Standby);
    }
}

#[test]
fn probation_leaves_by_time_orders_failures_signals_retire_or_eof() {
    for (event, to) in [
        (Event::Timer(Timer::Probation), Committing),
        (Event::Order(Order::Commit), Committing),
        (Event::Predecessor(FromPredecessor::Commit), Committing),
        (Event::Order(Order::Rollback { nothing: None }), Yielded),
        (Event::Order(supersede()), Yielded),
        (failed(), Yielded),
        (Event::Unhealthy("503".into()), Yielded),
        (signal(Signal::Term), Yielded),
        (signal(Signal::Quit), Yielded),
        (signal(Signal::Int), Draining),
        (Event::Predecessor(retire()), Draining),
        (Event::PredecessorClosed, Serving),
        (Event::PredecessorExited, Probation),
    ] {
        assert_eq!(after(Probation, Automatic, &[event]), to);
    }
    // In hold mode the old one may say that it accepts again.
    let ready = Event::Predecessor(FromPredecessor::Ready);
    assert_eq!(after(Probation, Hold, &[ready]), Standby);
}

#[test]
fn committing_leaves_by_eof_or_retire_and_kills_what_does_not_let_go() {
    assert_eq!(
        after(Committing, Automatic, &[Event::PredecessorClosed]),
        Serving
    );
    let retired = [Event::Predecessor(retire())];
    assert_eq!(after(Committing, Automatic, &retired), Draining);
    let ready = Event::Predecessor(FromPredecessor::Ready);
    assert_eq!(after(Committing, Hold, &[ready]), Standby);
    let mut one = One::at(Committing, Automatic);
    for _ in 0..2 {
        let actions = one.waits_for(Timer::Commit);
        assert_eq!(actions, [crate::machine::Action::KillPredecessor]);
        assert_eq!(one.phase(), Committing);
    }
}

#[test]
fn committing_told_to_leave_stops_the_service_when_it_is_alone() {
    for word in [Signal::Quit, Signal::Term] {
        let events = [signal(word), Event::PredecessorClosed];
        assert_eq!(after(Committing, Automatic, &events), Draining);
        let events = [signal(word), Event::Predecessor(FromPredecessor::Ready)];
        assert_eq!(after(Committing, Hold, &events), Draining);
    }
}

#[test]
fn yielded_leaves_by_retire_or_eof_and_kills_what_cannot_take_back() {
    let retired = [Event::Predecessor(retire())];
    assert_eq!(after(Yielded, Automatic, &retired), Draining);
    // The way back is from the disk then.
    assert_eq!(
        after(Yielded, Automatic, &[Event::PredecessorClosed]),
        Launching
    );
    let ready = Event::Predecessor(FromPredecessor::Ready);
    assert_eq!(after(Yielded, Hold, &[ready]), Standby);
    // The predecessor's commit and takeover are old words here.
    for word in [FromPredecessor::Commit, FromPredecessor::Takeover] {
        let events = [Event::Predecessor(word)];
        assert_eq!(after(Yielded, Automatic, &events), Yielded);
    }
    let mut one = One::at(Yielded, Automatic);
    let actions = one.waits_for(Timer::Commit);
    assert_eq!(actions, [crate::machine::Action::KillPredecessor]);
}

#[test]
fn yielded_told_to_leave_serves_on_until_there_is_somebody_else() {
    let events = [signal(Signal::Quit), Event::PredecessorClosed];
    assert_eq!(after(Yielded, Automatic, &events), Launching);
}

#[test]
fn serving_leaves_for_upgrades_rollbacks_reloads_and_stops() {
    for (event, to) in [
        (Event::Order(upgrade(Automatic)), Launching),
        (Event::Order(upgrade(Hold)), Launching),
        (signal(Signal::Usr2), Launching),
        (Event::Order(Order::Rollback { nothing: None }), Launching),
        (Event::Order(Order::Reload), Reloading),
        (signal(Signal::Hup), Reloading),
        (Event::Order(Order::Stop), Draining),
        (signal(Signal::Int), Draining),
        (failed(), Serving),
        (Event::Unhealthy("503".into()), Serving),
    ] {
        assert_eq!(after(Serving, Automatic, &[event]), to);
    }
}

#[test]
fn reloading_leaves_when_it_is_done_or_failed_and_serves_in_both_cases() {
    let bad = Event::ReloadFailed(Failure::new("line 3"));
    assert_eq!(after(Reloading, Automatic, &[Event::Reloaded]), Serving);
    assert_eq!(after(Reloading, Automatic, &[bad]), Serving);
    for word in [Signal::Quit, Signal::Term, Signal::Int] {
        assert_eq!(after(Reloading, Automatic, &[signal(word)]), Draining);
    }
    assert_eq!(after(Reloading, Automatic, &[failed()]), Reloading);
}

#[test]
fn launching_leaves_by_ready_or_by_everything_that_goes_wrong() {
    let ready = Event::Successor(FromSuccessor::Ready);
    let tried = |event| [Event::Launched(NEW_PID), event];
    assert_eq!(after(Launching, Automatic, &tried(ready.clone())), Parked);
    assert_eq!(after(Launching, Hold, &tried(ready)), Beside);
    let bad = Event::LaunchFailed(Failure::new("it is a directory"));
    assert_eq!(after(Launching, Automatic, &[bad]), Serving);
    for event in [
        closed(),
        Event::Successor(yields(true)),
        Event::Successor(FromSuccessor::Leaving),
        Event::Timer(Timer::Start),
        Event::Order(Order::Rollback { nothing: None }),
    ] {
        assert_eq!(after(Launching, Automatic, &tried(event.clone())), Evicting);
        // Without a process there is nobody to be evicted.
        assert_eq!(after(Launching, Automatic, &[event]), Serving);
    }
    assert_eq!(after(Launching, Automatic, &tried(exited())), Serving);
}

#[test]
fn beside_leaves_by_the_operators_word_or_when_the_new_one_goes() {
    for (event, to) in [
        (signal(Signal::Winch), Parked),
        (signal(Signal::Quit), Parked),
        (signal(Signal::Term), Parked),
        (signal(Signal::Int), Parked),
        (Event::Order(Order::Commit), Parked),
        (Event::Order(Order::Rollback { nothing: None }), Evicting),
        (Event::Successor(yields(true)), Evicting),
        (Event::Successor(FromSuccessor::Leaving), Evicting),
        (Event::Timer(Timer::Silence), Evicting),
        (closed(), Evicting),
        (exited(), Serving),
        (Event::Order(Order::Stop), Draining),
        (Event::Timer(Timer::Start), Beside),
        (Event::Timer(Timer::DeadMan), Beside),
    ] {
        assert_eq!(after(Beside, Hold, &[event]), to);
    }
}

#[test]
fn parked_leaves_by_commit_or_takes_back() {
    for mode in [Automatic, Hold] {
        let commit = [Event::Successor(FromSuccessor::Commit)];
        assert_eq!(after(Parked, mode, &commit), Done, "its workers have gone");
        let release = [Event::Successor(FromSuccessor::Release)];
        assert_eq!(after(Parked, mode, &release), Done);
        for event in [
            Event::Successor(yields(true)),
            Event::Successor(yields(false)),
            Event::Successor(FromSuccessor::Leaving),
            Event::Order(Order::Rollback { nothing: None }),
            signal(Signal::Hup),
            closed(),
            exited(),
            Event::Timer(Timer::Silence),
            Event::Timer(Timer::DeadMan),
            Event::Timer(Timer::Commit),
        ] {
            assert_eq!(after(Parked, mode, &[event]), Reclaiming);
        }
        // Told to leave, it waits for the new one's word.
        for word in [Signal::Quit, Signal::Term, Signal::Int] {
            assert_eq!(after(Parked, mode, &[signal(word)]), Parked);
            let late = [signal(word), Event::Timer(Timer::Commit)];
            let stops = word != Signal::Quit;
            let to = if stops { Draining } else { Reclaiming };
            assert_eq!(after(Parked, mode, &late), to, "{word:?}");
        }
    }
}

#[test]
fn reclaiming_leaves_when_its_workers_are_ready() {
    let ready = [Event::WorkersReady];
    assert_eq!(after(Reclaiming, Automatic, &ready), Evicting);
    assert_eq!(after(Reclaiming, Hold, &ready), Beside);
    // In hold mode the signals decide about the other one, but not about one that is broken or
    // was ordered away.
    for event in [
        closed(),
        Event::Order(Order::Rollback { nothing: None }),
        Event::Successor(yields(true)),
        Event::Successor(FromSuccessor::Leaving),
    ] {
        let events = [event, Event::WorkersReady];
        assert_eq!(after(Reclaiming, Hold, &events), Evicting);
    }
    assert_eq!(
        after(Reclaiming, Hold, &[exited(), Event::WorkersReady]),
        Serving
    );
    for event in [
        Event::Successor(FromSuccessor::Commit),
        Event::Successor(FromSuccessor::Heartbeat),
        failed(),
    ] {
        assert_eq!(after(Reclaiming, Automatic, &[event]), Reclaiming);
    }
}

#[test]
fn evicting_leaves_when_the_process_is_gone() {
    assert_eq!(after(Evicting, Automatic, &[exited()]), Serving);
    assert_eq!(after(Evicting, Automatic, &[closed()]), Evicting);
    let stubborn = [Event::Timer(Timer::Evict), Event::Timer(Timer::Evict)];
    assert_eq!(after(Evicting, Automatic, &stubborn), Evicting);
    for event in [
        signal(Signal::Term),
        signal(Signal::Int),
        Event::Order(Order::Stop),
        Event::Successor(FromSuccessor::Release),
    ] {
        assert_eq!(after(Evicting, Automatic, &[event]), Draining);
    }
}

#[test]
fn draining_leaves_when_the_workers_have_gone() {
    assert_eq!(after(Draining, Automatic, &[Event::WorkersGone]), Done);
    for event in [signal(Signal::Term), signal(Signal::Quit), failed()] {
        assert_eq!(after(Draining, Automatic, &[event]), Draining);
    }
}
