//! Every phase answers every event.

use super::kit::*;
use crate::machine::event::{Event, Failure, FromPredecessor, FromSuccessor, Order, Signal};
use crate::machine::{Action, Phase, Timer, Verdict, Who};

const SIGNALS: [Signal; 7] = [
    Signal::Hup,
    Signal::Usr1,
    Signal::Usr2,
    Signal::Winch,
    Signal::Quit,
    Signal::Term,
    Signal::Int,
];

fn orders() -> [Order; 7] {
    [
        upgrade(Automatic),
        upgrade(Hold),
        supersede(),
        Order::Commit,
        Order::Rollback { nothing: None },
        Order::Reload,
        Order::Stop,
    ]
}

/// Every event there is. A new one does not compile until it is here.
fn events() -> Vec<Event> {
    let mut all = Vec::new();
    let mut event = Some(Event::WorkersReady);
    while let Some(this) = event {
        event = match &this {
            Event::WorkersReady => Some(Event::WorkersFailed("crash loop".into())),
            Event::WorkersFailed(_) => Some(Event::WorkersGone),
            Event::WorkersGone => Some(Event::Reloaded),
            Event::Reloaded => Some(Event::ReloadFailed(Failure::new("line 3"))),
            Event::ReloadFailed(_) => Some(Event::Healthy),
            Event::Healthy => Some(Event::Unhealthy("503".into())),
            Event::Unhealthy(_) => Some(Event::OwnerAnswered(true)),
            Event::OwnerAnswered(true) => Some(Event::OwnerAnswered(false)),
            Event::OwnerAnswered(false) => Some(Event::WorkersClosed),
            Event::WorkersClosed => Some(Event::ReadyHeard),
            Event::ReadyHeard => Some(Event::DrainerDone(9)),
            Event::DrainerDone(_) => Some(Event::DrainerGone(9)),
            Event::DrainerGone(_) => Some(Event::MainNamed {
                who: Who::Me,
                done: false,
            }),
            Event::MainNamed { done: false, .. } => Some(named(Who::Successor)),
            Event::MainNamed { .. } => Some(Event::ManagerTerm),
            Event::ManagerTerm => Some(Event::Launched(NEW_PID)),
            Event::Launched(_) => Some(Event::LaunchFailed(Failure::new("a directory"))),
            Event::LaunchFailed(_) => Some(closed()),
            Event::SuccessorClosed(_) => Some(exited()),
            Event::SuccessorExited(_) => Some(Event::PredecessorClosed),
            Event::PredecessorClosed => Some(Event::PredecessorExited),
            Event::PredecessorExited
            | Event::Successor(_)
            | Event::Predecessor(_)
            | Event::Order(_)
            | Event::Signal(_)
            | Event::Timer(_) => None,
        };
        all.push(this);
    }
    let superseding = FromSuccessor::Yield {
        reason: "superseded".into(),
        retire: true,
        then: Some(next()),
    };
    all.extend(
        [
            FromSuccessor::Hello,
            FromSuccessor::Ready,
            FromSuccessor::Heartbeat,
            FromSuccessor::Commit,
            yields(true),
            yields(false),
            superseding,
            FromSuccessor::Release,
            FromSuccessor::Leaving,
        ]
        .map(Event::Successor),
    );
    all.extend(
        [
            FromPredecessor::Takeover,
            FromPredecessor::Ready,
            FromPredecessor::Commit,
            FromPredecessor::Release,
            retire(),
        ]
        .map(Event::Predecessor),
    );
    all.extend(orders().map(Event::Order));
    all.extend(SIGNALS.map(Event::Signal));
    all.extend(Timer::ALL.map(Event::Timer));
    all
}

#[test]
fn no_event_and_no_two_events_make_any_phase_panic_or_contradict_itself() {
    for (phase, mode) in phases() {
        for first in events() {
            let mut one = One::at(phase, mode);
            sane(one.phase(), &one.on(first.clone()), &first);
            for second in events() {
                let mut one = one.clone();
                let before = one.phase();
                let actions = one.on(second.clone());
                sane(before, &actions, &second);
            }
        }
    }
}

/// Phase changes are a chain, and an exit is the last thing.
fn sane(before: Phase, actions: &[Action], event: &Event) {
    let mut at = before;
    for action in actions {
        if let Action::Enter { from, to } = action {
            assert_eq!(*from, at, "{before}, {event:?}: {actions:#?}");
            at = *to;
        }
    }
    let exit = actions.iter().position(|a| matches!(a, Action::Exit(_)));
    assert_eq!(exit.is_some(), at == Phase::Done && before != Phase::Done);
    assert!(exit.is_none_or(|at| at == actions.len() - 1));
}

#[test]
fn done_answers_nothing() {
    for event in events() {
        let mut one = One::at(Phase::Done, Automatic);
        assert_eq!(one.on(event), []);
        assert_eq!(one.phase(), Phase::Done);
        assert_eq!(one.machine.deadline(), None);
        assert!(!one.machine.owns() && !one.machine.feeds_watchdog(true));
    }
}

#[test]
fn no_order_is_ignored_it_is_answered_or_waits_for_its_answer() {
    for (phase, mode) in phases() {
        if phase == Phase::Done {
            continue;
        }
        for order in orders() {
            let mut one = One::at(phase, mode);
            let actions = one.order(order.clone());
            let answers = actions
                .iter()
                .filter(|a| matches!(a, Action::Settle(kind, _) if *kind == order.kind()))
                .count();
            let kind = order.kind();
            let waits = one.machine.unsettled.contains(&kind) || one.machine.is_held(kind);
            let waits = usize::from(waits);
            let refused = matches!(verdict(&actions, order.kind()), Some(Verdict::Refused(_)));
            // One that is refused leaves those that wait already.
            let expected = if refused { 1 + waits } else { 1 };
            assert_eq!(answers + waits, expected, "{phase}, {mode:?}: {order:?}");
        }
    }
}

#[test]
fn no_signal_is_ignored_silently() {
    // What says nothing and changes nothing is what it says already.
    let already = [
        (Phase::Draining, Signal::Quit),
        (Phase::Draining, Signal::Winch),
    ];
    for (phase, mode) in phases() {
        for signal in SIGNALS {
            let mut one = One::at(phase, mode);
            let before = one.machine.clone();
            let silent = one.signal(signal).is_empty() && one.machine == before;
            let expected = phase == Phase::Done || already.contains(&(phase, signal));
            assert_eq!(silent, expected, "{phase}, {mode:?}: {signal:?}");
        }
    }
}

#[test]
fn at_most_one_of_a_pair_owns_the_service_when_nothing_is_on_its_way() {
    let mut pair = Pair::new();
    let mut owners = Vec::new();
    let mut look = |pair: &Pair| {
        let owning = pair
            .sides
            .iter()
            .filter(|s| s.alive && s.one.machine.owns());
        owners.push(owning.count());
    };
    for (who, signal) in [
        (OLD, Signal::Usr2),
        (OLD, Signal::Winch),
        (OLD, Signal::Hup),
        (OLD, Signal::Winch),
        (NEW, Signal::Quit),
    ] {
        pair.signal(who, signal);
        look(&pair);
    }
    assert_eq!(owners, [1; 5]);
}
