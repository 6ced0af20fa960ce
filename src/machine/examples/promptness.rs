//! What comes before what, and what must not wait.

use super::kit::*;
use crate::api::Outcome;
use crate::machine::event::{Event, Failure, FromPredecessor, FromSuccessor, Order, Signal};
use crate::machine::{Action, OrderKind, Phase, Timer, Verdict, Who};

#[test]
fn when_the_successor_dies_mainpid_comes_before_anything_else() {
    for event in [closed(), exited()] {
        // Also when an order waits, and when we were asked to leave.
        for before in [None, Some(Signal::Quit), Some(Signal::Term)] {
            let mut one = One::at(Phase::Beside, Hold);
            let _ = one.order(Order::Commit);
            if let Some(signal) = before {
                let _ = one.signal(signal);
            }
            assert_eq!(one.phase(), Phase::Parked);
            let actions = one.on(event.clone());
            assert_eq!(actions[0], Action::NameMain(Who::Me), "{before:?}");
        }
    }
    let mut one = One::at(Phase::Reclaiming, Automatic);
    assert_eq!(one.on(closed())[0], Action::NameMain(Who::Me));
}

#[test]
fn a_rollback_starts_the_workers_in_the_same_step() {
    type Cause = (&'static str, fn(&mut One) -> Vec<Action>);
    let causes: [Cause; 6] = [
        ("an order", |one| {
            one.order(Order::Rollback { nothing: None })
        }),
        ("HUP", |one| one.signal(Signal::Hup)),
        ("Yield", |one| one.told(yields(true))),
        ("EOF", |one| one.on(closed())),
        ("silence", |one| one.waits_for(Timer::Silence)),
        ("the dead-man's switch", |one| {
            one.on(Event::Timer(Timer::DeadMan))
        }),
    ];
    for (name, cause) in causes {
        let mut one = One::at(Phase::Parked, Automatic);
        let actions = cause(&mut one);
        // The disk is put right at the same time, and holds nothing up.
        assert_order(&actions, &[Action::StartWorkers, Action::RestoreDisk]);
        assert_eq!(one.phase(), Phase::Reclaiming, "{name}");
        // Then they accept, the manager knows, and only then the other one is sent away.
        // It knows already where the other one is dead: it would not see that.
        let named = Action::NameMain(Who::Me);
        let early = actions.contains(&named);
        let actions = one.on(Event::WorkersReady);
        place(&actions, &Action::Accept);
        assert!(early || place(&actions, &named) > place(&actions, &Action::Accept));
        assert_eq!(one.phase(), Phase::Evicting, "{name}");
    }
}

#[test]
fn the_takeover_names_main_then_tells_the_successor_then_drains() {
    let mut one = One::at(Phase::Launching, Automatic);
    let _ = one.on(Event::Launched(NEW_PID));
    let _ = one.told(FromSuccessor::Hello);
    let actions = one.told(FromSuccessor::Ready);
    assert_order(
        &actions,
        &[
            Action::NameMain(Who::Successor),
            Action::ToSuccessor(FromPredecessor::Takeover),
            Action::DrainWorkers {
                stop: false,
                limit: one.machine.timing.drain,
            },
            Action::Enter {
                from: Phase::Launching,
                to: Phase::Parked,
            },
        ],
    );
    // The order is answered when the successor says that it listens and accepts.
    assert_eq!(verdict(&actions, OrderKind::Upgrade), None);
    let actions = one.told(FromSuccessor::Ready);
    assert_eq!(verdict(&actions, OrderKind::Upgrade), Some(&Verdict::Done));
}

#[test]
fn an_order_whose_successor_never_says_that_it_took_over_fails() {
    for end in [exited(), Event::Timer(Timer::Silence), closed()] {
        for (order, kind) in [
            (upgrade(Automatic), OrderKind::Upgrade),
            (Order::Rollback { nothing: None }, OrderKind::Rollback),
        ] {
            let mut one = One::at(Phase::Serving, Automatic);
            let _ = one.order(order);
            let _ = one.on(Event::Launched(NEW_PID));
            let _ = one.told(FromSuccessor::Hello);
            let _ = one.told(FromSuccessor::Ready);
            assert_eq!(one.phase(), Phase::Parked);
            let mut actions = one.on(end.clone());
            actions.extend(one.on(Event::WorkersReady));
            let verdict = verdict(&actions, kind);
            assert!(matches!(verdict, Some(Verdict::Failed(_))), "{verdict:?}");
        }
    }
}

#[test]
fn the_new_one_says_that_it_took_over_when_it_accepts_and_not_before() {
    let mut one = One::at(Phase::Standby, Automatic);
    assert_order(
        &one.hears(FromPredecessor::Takeover),
        &[Action::Accept, Action::ToPredecessor(FromSuccessor::Ready)],
    );
}

#[test]
fn in_automatic_mode_nothing_waits_between_ready_and_accepting() {
    let mut pair = Pair::new();
    let now = pair.old().one.now;
    assert_eq!(pair.order(&upgrade(Automatic)), Some(Verdict::Done));
    assert_eq!(pair.phases(), [Phase::Parked, Phase::Probation]);
    assert_eq!(pair.accepting(), [NEW]);
    assert_eq!(pair.old().one.now, now, "no deadline had to pass");
}

#[test]
fn the_new_one_accepts_in_the_step_in_which_it_is_told_to_own() {
    let mut one = One::at(Phase::Standby, Automatic);
    assert_eq!(one.hears(FromPredecessor::Takeover)[0], Action::Accept);
    // In hold mode it accepts since it was ready, and goes on.
    let mut one = One::at(Phase::Starting, Hold);
    assert_order(
        &one.on(Event::WorkersReady),
        &[Action::Accept, Action::ToPredecessor(FromSuccessor::Ready)],
    );
    // One that had stepped back accepts again; one whose workers left starts others.
    for (step_back, then) in [
        (Signal::Usr2, Action::Accept),
        (Signal::Winch, Action::StartWorkers),
    ] {
        let mut one = One::at(Phase::Standby, Hold);
        let _ = one.signal(step_back);
        assert_eq!(one.hears(FromPredecessor::Takeover)[0], then);
    }
}

#[test]
fn the_inheritance_answers_hello() {
    let mut one = One::at(Phase::Launching, Automatic);
    let _ = one.on(Event::Launched(NEW_PID));
    assert_eq!(one.told(FromSuccessor::Hello), [Action::Inherit]);
}

#[test]
fn a_cold_start_is_ready_when_its_workers_accept() {
    let (mut one, actions) = One::first();
    assert_eq!(actions, [Action::StartWorkers]);
    assert_order(
        &one.on(Event::WorkersReady),
        &[Action::Accept, Action::OwnPid, Action::NotifyReady],
    );
}

#[test]
fn an_upgrade_is_answered_at_the_takeover_and_the_commit_at_eof() {
    let mut one = One::at(Phase::Launching, Automatic);
    let mut early = one.on(Event::Launched(NEW_PID));
    early.extend(one.told(FromSuccessor::Hello));
    early.extend(one.told(FromSuccessor::Ready));
    assert_eq!(verdict(&early, OrderKind::Upgrade), None);
    let actions = one.told(FromSuccessor::Ready);
    assert_eq!(verdict(&actions, OrderKind::Upgrade), Some(&Verdict::Done));

    let mut one = One::at(Phase::Probation, Automatic);
    let actions = one.order(Order::Commit);
    assert_eq!(verdict(&actions, OrderKind::Commit), None);
    let actions = one.on(Event::PredecessorClosed);
    assert_eq!(verdict(&actions, OrderKind::Commit), Some(&Verdict::Done));
    place(&actions, &Action::Conclude(Outcome::Committed, None));
}

#[test]
fn an_upgrade_in_hold_mode_is_answered_when_both_accept() {
    let mut pair = Pair::new();
    assert_eq!(pair.order(&upgrade(Hold)), Some(Verdict::Done));
    assert_eq!(pair.phases(), [Phase::Beside, Phase::Standby]);
    // And a commit there, when the new one's word has come.
    assert_eq!(pair.order(&Order::Commit), Some(Verdict::Done));
    assert_eq!(pair.phases(), [Phase::Serving]);
}

#[test]
fn a_rollback_is_answered_when_the_old_one_serves() {
    // By the successor, which hears Retire;
    let mut pair = Pair::new();
    pair.order(&upgrade(Automatic));
    assert_eq!(
        pair.order(&Order::Rollback { nothing: None }),
        Some(Verdict::Done)
    );
    assert_eq!(pair.phases(), [Phase::Serving]);
    // by the parked one itself, should it be asked;
    let mut one = One::at(Phase::Parked, Automatic);
    assert_eq!(
        verdict(
            &one.order(Order::Rollback { nothing: None }),
            OrderKind::Rollback
        ),
        None
    );
    let _ = one.on(Event::WorkersReady);
    let actions = one.on(closed());
    assert_eq!(verdict(&actions, OrderKind::Rollback), Some(&Verdict::Done));
    // in hold mode, even when the other one is well;
    let mut pair = Pair::new();
    pair.signal(OLD, Signal::Usr2);
    pair.signal(OLD, Signal::Winch);
    assert_eq!(
        pair.order(&Order::Rollback { nothing: None }),
        Some(Verdict::Done)
    );
    assert_eq!(pair.phases(), [Phase::Serving]);
    // and not at all when there is nobody left to go back to, and nothing on disk.
    let mut one = One::at(Phase::Probation, Automatic);
    let _ = one.order(Order::Rollback { nothing: None });
    let _ = one.on(Event::PredecessorClosed);
    let actions = one.on(Event::LaunchFailed(Failure::new("nothing to go back to")));
    assert!(matches!(
        verdict(&actions, OrderKind::Rollback),
        Some(Verdict::Failed(_))
    ));
}

#[test]
fn a_failed_launch_answers_the_order_with_its_reason_and_exit_code() {
    let failure = crate::machine::Failure {
        exit: crate::api::exit::CONFIG,
        reason: "bad configuration".into(),
    };
    let mut one = One::at(Phase::Launching, Automatic);
    let actions = one.on(Event::LaunchFailed(failure.clone()));
    assert_eq!(
        actions,
        [
            Action::Enter {
                from: Phase::Launching,
                to: Phase::Serving
            },
            Action::RestoreDisk,
            Action::Settle(OrderKind::Upgrade, Verdict::Failed(failure.clone())),
            Action::Conclude(Outcome::Failed, Some(failure)),
        ]
    );
}

#[test]
fn a_reload_is_answered_when_the_new_workers_accept() {
    let mut one = One::at(Phase::Serving, Automatic);
    assert_eq!(verdict(&one.order(Order::Reload), OrderKind::Reload), None);
    let actions = one.on(Event::Reloaded);
    assert_eq!(verdict(&actions, OrderKind::Reload), Some(&Verdict::Done));
    assert_eq!(one.phase(), Phase::Serving);

    let failure = crate::machine::Failure {
        exit: crate::api::exit::CONFIG,
        reason: "line 3".into(),
    };
    let _ = one.order(Order::Reload);
    let actions = one.on(Event::ReloadFailed(failure.clone()));
    assert_eq!(
        verdict(&actions, OrderKind::Reload),
        Some(&Verdict::Failed(failure))
    );
    assert_eq!(one.phase(), Phase::Serving);
    // In probation it stays a probation.
    let mut one = One::at(Phase::Probation, Automatic);
    let _ = one.order(Order::Reload);
    let actions = one.on(Event::Reloaded);
    assert_eq!(verdict(&actions, OrderKind::Reload), Some(&Verdict::Done));
    assert_eq!(one.phase(), Phase::Probation);
    assert!(one.armed(Timer::Probation).is_some());
}

#[test]
fn a_stop_is_answered_when_everything_has_gone() {
    let mut one = One::at(Phase::Serving, Automatic);
    let actions = one.order(Order::Stop);
    assert_eq!(verdict(&actions, OrderKind::Stop), None);
    assert_order(
        &one.on(Event::WorkersGone),
        &[
            Action::Settle(OrderKind::Stop, Verdict::Done),
            Action::Exit(0),
        ],
    );
}
