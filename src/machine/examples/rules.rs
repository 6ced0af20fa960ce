//! The rules of ARCHITECTURE.md, each a test.

use std::time::Duration;

use super::kit::*;
use crate::api::Outcome;
use crate::machine::event::{Event, Failure, FromPredecessor, FromSuccessor, Order, Signal};
use crate::machine::{Action, Note, OrderKind, Phase, Timer, Timing, Verdict, Who};

fn names(actions: &[Action]) -> Vec<Who> {
    let name = |a: &Action| match a {
        Action::NameMain(who) => Some(*who),
        _ => None,
    };
    actions.iter().filter_map(name).collect()
}

#[test]
fn whoever_owns_the_service_names_the_main_process() {
    // The predecessor, at the takeover.
    let mut old = One::at(Phase::Launching, Automatic);
    let _ = old.on(Event::Launched(NEW_PID));
    assert_eq!(names(&old.told(FromSuccessor::Ready)), [Who::Successor]);
    // The successor claims nothing: not when it owns the service, not when it commits or yields.
    let mut new = One::at(Phase::Starting, Automatic);
    let mut said = new.on(Event::WorkersReady);
    said.extend(new.hears(FromPredecessor::Takeover));
    said.extend(new.order(Order::Commit));
    said.extend(One::at(Phase::Probation, Automatic).on(Event::Unhealthy("sick".into())));
    assert_eq!(names(&said), []);
    // It is the main process already when the predecessor goes.
    assert_eq!(names(&new.on(Event::PredecessorClosed)), []);
    assert_eq!(
        new.on(Event::PredecessorExited),
        [Action::Reclaim, Action::OwnPid]
    );
}

#[test]
fn a_successor_names_itself_only_when_it_never_was_named_and_the_predecessor_is_gone() {
    let mut one = One::at(Phase::Starting, Automatic);
    let _ = one.on(Event::PredecessorClosed);
    assert_eq!(one.phase(), Phase::Starting, "it does not serve yet");
    assert_eq!(names(&one.on(Event::WorkersReady)), [Who::Me]);
    assert_eq!(one.phase(), Phase::Serving);
    let mut one = One::at(Phase::Standby, Automatic);
    let actions = one.on(Event::PredecessorClosed);
    assert_order(&actions, &[Action::NameMain(Who::Me), Action::Accept]);
    assert_eq!(one.phase(), Phase::Serving);
}

#[test]
fn a_healthy_standby_never_leaves_by_clock() {
    for mode in [Automatic, Hold] {
        let mut one = One::at(Phase::Standby, mode);
        let armed: Vec<Timer> = Timer::ALL
            .into_iter()
            .filter(|t| one.armed(*t).is_some())
            .collect();
        assert_eq!(armed, [Timer::Heartbeat]);
        for timer in Timer::ALL {
            let _ = one.on(Event::Timer(timer));
            assert_eq!(one.phase(), Phase::Standby, "{timer:?}");
        }
    }
    // Only by Retire or EOF.
    let mut one = One::at(Phase::Standby, Hold);
    let _ = one.hears(retire());
    assert_eq!(one.phase(), Phase::Draining);
    let mut one = One::at(Phase::Standby, Hold);
    let _ = one.on(Event::PredecessorClosed);
    assert_eq!(one.phase(), Phase::Serving);
}

#[test]
fn without_a_commit_the_dead_mans_switch_takes_the_service_back() {
    let mut one = One::at(Phase::Parked, Automatic);
    assert_eq!(one.armed(Timer::DeadMan), Some(Duration::from_secs(75)));
    // It says that it lives, and nothing else.
    for _ in 0..10 {
        one.now += Duration::from_secs(7);
        let _ = one.told(FromSuccessor::Heartbeat);
    }
    place(&one.waits_for(Timer::DeadMan), &Action::StartWorkers);
    assert_eq!(one.phase(), Phase::Reclaiming);
}

#[test]
fn in_hold_mode_no_clock_ends_the_probation() {
    let mut one = One::at(Phase::Parked, Hold);
    assert_eq!(one.armed(Timer::DeadMan), None);
    one = One::at(Phase::Probation, Hold);
    assert_eq!(one.armed(Timer::Probation), None);
    let mut pair = Pair::new();
    pair.signal(OLD, Signal::Usr2);
    pair.signal(OLD, Signal::Winch);
    pair.advance(Duration::from_secs(86_400));
    assert_eq!(pair.phases(), [Phase::Parked, Phase::Probation]);
}

#[test]
fn the_successor_heartbeats_in_every_phase_until_the_predecessor_is_gone() {
    for mode in [Automatic, Hold] {
        for phase in [
            Phase::Standby,
            Phase::Probation,
            Phase::Committing,
            Phase::Yielded,
        ] {
            let mut one = One::at(phase, mode);
            let every = Duration::from_millis(2500);
            assert_eq!(one.armed(Timer::Heartbeat), Some(every), "{phase}");
            assert_eq!(
                one.waits_for(Timer::Heartbeat),
                [Action::ToPredecessor(FromSuccessor::Heartbeat)]
            );
            assert_eq!(one.armed(Timer::Heartbeat), Some(every), "and again");
            let _ = one.on(Event::PredecessorClosed);
            assert_eq!(one.armed(Timer::Heartbeat), None, "{phase}");
        }
    }
}

#[test]
fn silence_counts_as_a_yield_in_every_mode() {
    for (phase, mode) in [
        (Phase::Parked, Automatic),
        (Phase::Parked, Hold),
        (Phase::Beside, Hold),
    ] {
        let mut pair = Pair::new();
        pair.order(&upgrade(mode));
        if (phase, mode) == (Phase::Parked, Hold) {
            pair.signal(OLD, Signal::Winch);
        }
        assert_eq!(pair.old().phase(), phase);
        pair.new_one().hangs = true;
        pair.advance(Duration::from_secs(11));
        assert_eq!((pair.accepting()[0], pair.main), (OLD, OLD));
        // TERM (with CONT), then KILL; even in hold mode nobody wants it beside us.
        pair.advance(Duration::from_secs(7));
        assert_eq!(pair.phases(), [Phase::Serving]);
    }
}

#[test]
fn ownership_is_decided_by_eof_and_a_commit_is_not_believed_before_it() {
    let mut one = One::at(Phase::Committing, Automatic);
    for event in [
        Event::Predecessor(FromPredecessor::Commit),
        Event::PredecessorExited,
        Event::WorkersReady,
    ] {
        let _ = one.on(event);
        assert_eq!(one.phase(), Phase::Committing);
    }
    let actions = one.on(Event::PredecessorClosed);
    assert_eq!(one.phase(), Phase::Serving);
    // The process was gone already; else the re-claim waits for its pidfd.
    place(&actions, &Action::Reclaim);
}

#[test]
fn what_needs_the_process_to_be_gone_waits_for_its_pidfd() {
    let mut one = One::at(Phase::Committing, Automatic);
    let actions = one.on(Event::PredecessorClosed);
    assert!(!actions.contains(&Action::Reclaim));
    place(&one.on(Event::PredecessorExited), &Action::Reclaim);

    let mut one = One::at(Phase::Evicting, Automatic);
    assert_eq!(one.on(closed()), []);
    assert_eq!(one.phase(), Phase::Evicting);
    place(&one.on(exited()), &Action::ReapSuccessor);
    assert_eq!(one.phase(), Phase::Serving);
}

#[test]
fn a_dead_successor_is_reaped_only_when_the_service_is_ours_again() {
    let mut one = One::at(Phase::Parked, Automatic);
    let mut actions = one.on(exited());
    actions.extend(one.on(closed()));
    assert!(!actions.contains(&Action::ReapSuccessor));
    place(&actions, &Action::NameMain(Who::Me));
    let actions = one.on(Event::WorkersReady);
    assert_order(&actions, &[Action::Accept, Action::ReapSuccessor]);
    assert_eq!(one.phase(), Phase::Serving);
}

#[test]
fn stopping_is_never_said_while_another_generation_lives() {
    let alone = [
        Phase::Starting,
        Phase::Serving,
        Phase::Reloading,
        Phase::Draining,
        Phase::Done,
    ];
    for (phase, mode) in phases() {
        for event in [
            Event::Order(Order::Stop),
            Event::Signal(Signal::Quit),
            Event::Signal(Signal::Term),
            Event::Signal(Signal::Int),
        ] {
            let mut one = ready_launch(phase, mode);
            let actions = one.on(event.clone());
            assert!(
                alone.contains(&phase) || !actions.contains(&Action::NotifyStopping),
                "{phase}: {event:?}"
            );
        }
    }
}

/// In `Launching` there is a successor's process, too.
fn ready_launch(phase: Phase, mode: Mode) -> One {
    let mut one = One::at(phase, mode);
    if phase == Phase::Launching {
        let _ = one.on(Event::Launched(NEW_PID));
    }
    one
}

#[test]
fn no_signal_leaves_nobody_accepting() {
    // Every script of three signals, to whomever, leaves somebody who accepts: unless the last one
    // of all was told to leave.
    use Signal::{Hup, Quit, Usr2, Winch};
    let words: Vec<(usize, Signal)> = [OLD, NEW]
        .into_iter()
        .flat_map(|who| [Hup, Usr2, Winch, Quit].map(|s| (who, s)))
        .collect();
    for first in &words {
        for second in &words {
            for third in &words {
                let mut pair = Pair::new();
                pair.signal(OLD, Usr2);
                for (who, signal) in [first, second, third] {
                    if pair.phases().len() == 2 {
                        pair.signal(*who, *signal);
                    }
                }
                let tale = format!("{first:?}, {second:?}, {third:?}");
                assert!(!pair.accepting().is_empty(), "{tale}: {:?}", pair.phases());
                assert!(pair.sides[pair.main].alive, "{tale}");
            }
        }
    }
}

#[test]
fn an_order_that_makes_no_sense_now_is_refused_with_a_reason_and_changes_nothing() {
    let cases = [
        (Phase::Starting, Order::Reload),
        (Phase::Starting, Order::Rollback { nothing: None }),
        (Phase::Standby, Order::Commit),
        (Phase::Standby, Order::Stop),
        (Phase::Probation, upgrade(Automatic)),
        (Phase::Committing, Order::Rollback { nothing: None }),
        (Phase::Yielded, supersede()),
        (Phase::Yielded, Order::Commit),
        (Phase::Reloading, upgrade(Automatic)),
        (Phase::Reloading, Order::Reload),
        (Phase::Launching, upgrade(Automatic)),
        (Phase::Launching, Order::Reload),
        (Phase::Launching, Order::Commit),
        (Phase::Beside, upgrade(Hold)),
        (Phase::Beside, Order::Reload),
        (Phase::Parked, Order::Commit),
        (Phase::Parked, Order::Stop),
        (Phase::Parked, Order::Reload),
        (Phase::Reclaiming, Order::Commit),
        (Phase::Reclaiming, upgrade(Automatic)),
        (Phase::Evicting, upgrade(Automatic)),
        (Phase::Evicting, Order::Commit),
        (Phase::Draining, upgrade(Automatic)),
        (Phase::Draining, Order::Rollback { nothing: None }),
    ];
    for (phase, order) in cases {
        let mut one = One::at(
            phase,
            if phase == Phase::Beside {
                Hold
            } else {
                Automatic
            },
        );
        let before = one.machine.clone();
        let actions = one.order(order.clone());
        let refused = matches!(
            actions.as_slice(),
            [Action::Settle(kind, Verdict::Refused(why))]
                if *kind == order.kind() && !why.is_empty()
        );
        assert!(refused, "{phase}: {order:?}: {actions:?}");
        assert_eq!(one.machine, before, "{phase}: {order:?}");
    }
}

#[test]
fn what_is_already_so_is_done() {
    for (phase, order) in [
        (Phase::Serving, Order::Commit),
        (Phase::Reloading, Order::Commit),
        (Phase::Evicting, Order::Rollback { nothing: None }),
    ] {
        let mut one = One::at(phase, Automatic);
        let before = one.machine.clone();
        let actions = one.order(order.clone());
        assert!(matches!(
            verdict(&actions, order.kind()),
            Some(Verdict::Already(_))
        ));
        assert_eq!(one.machine, before);
    }
    // A second commit is answered with the first.
    let mut one = One::at(Phase::Committing, Automatic);
    assert_eq!(one.order(Order::Commit), []);
    let actions = one.on(Event::PredecessorClosed);
    assert_eq!(verdict(&actions, OrderKind::Commit), Some(&Verdict::Done));
}

#[test]
fn a_parked_master_leaves_only_when_its_own_workers_have_gone_and_the_commit_does_not_wait() {
    let mut pair = Pair::new();
    pair.old().busy = true;
    pair.order(&upgrade(Automatic));
    assert_eq!(pair.order(&Order::Commit), Some(Verdict::Done));
    assert_eq!(pair.phases(), [Phase::Draining, Phase::Serving]);
    pair.event(OLD, Event::WorkersGone);
    assert_eq!(pair.phases(), [Phase::Serving]);
}

#[test]
fn one_that_drains_since_its_commit_lets_go_when_its_successor_dies() {
    // Nobody else would see that: its zombie must go to PID 1.
    let mut one = One::at(Phase::Launching, Automatic);
    let _ = one.on(Event::Launched(NEW_PID));
    let _ = one.told(FromSuccessor::Ready);
    let _ = one.told(FromSuccessor::Commit);
    assert_eq!(one.phase(), Phase::Draining, "its workers drain");
    let actions = one.on(exited());
    // Should it be the main process still, for want of a manager that listens: that is no stop.
    place(&actions, &Action::Exit(1));
    assert!(!actions.contains(&Action::ReapSuccessor));
}

/// Its predecessor has died, and nothing was final.
fn alone_on_trial(phase: Phase, mode: Mode) -> (One, Vec<Action>) {
    let mut one = One::at(phase, mode);
    let actions = one.on(Event::PredecessorClosed);
    (one, actions)
}

fn goes_back(actions: &[Action]) -> bool {
    let (back, next) = (true, None);
    actions.contains(&Action::Launch { back, next })
}

fn concludes(actions: &[Action]) -> Option<Outcome> {
    actions.iter().find_map(|action| match action {
        Action::Conclude(outcome, _) => Some(*outcome),
        _ => None,
    })
}

#[test]
fn one_whose_predecessor_dies_proves_itself_alone() {
    for (phase, mode) in [
        (Phase::Probation, Automatic),
        (Phase::Probation, Hold),
        (Phase::Standby, Hold),
    ] {
        let (mut one, actions) = alone_on_trial(phase, mode);
        assert_eq!(one.phase(), Phase::Serving);
        place(&actions, &Action::ProveAlone);
        assert!(!actions.contains(&Action::KeepDisk) && concludes(&actions).is_none());
        assert_eq!(
            one.armed(Timer::ColdTrial),
            Some(Timing::default().probation)
        );
        let actions = one.waits_for(Timer::ColdTrial);
        assert_order(&actions, &[Action::Proved, Action::DropListeners]);
        assert_eq!(concludes(&actions), Some(Outcome::Committed));
    }
    let mut one = One::at(Phase::Committing, Automatic);
    let actions = one.on(Event::PredecessorClosed);
    assert_order(&actions, &[Action::KeepDisk, Action::DropListeners]);
    assert_eq!(concludes(&actions), Some(Outcome::Committed));
    assert_eq!(one.armed(Timer::ColdTrial), None);
}

#[test]
fn an_operator_ends_the_trial_of_one_that_is_alone() {
    let (mut one, _) = alone_on_trial(Phase::Probation, Automatic);
    let actions = one.order(Order::Commit);
    place(&actions, &Action::Proved);
    assert_eq!(concludes(&actions), Some(Outcome::Committed));
    assert_eq!(verdict(&actions, OrderKind::Commit), Some(&Verdict::Done));
    assert_eq!(one.armed(Timer::ColdTrial), None);

    let (mut one, _) = alone_on_trial(Phase::Probation, Automatic);
    let actions = one.order(Order::Rollback { nothing: None });
    assert!(goes_back(&actions));
    assert_eq!(concludes(&actions), Some(Outcome::Interrupted));
    // There is none: it serves on, and may yet prove itself.
    let actions = one.on(Event::LaunchFailed(Failure::new("nothing to go back to")));
    assert_eq!(one.phase(), Phase::Serving);
    assert!(matches!(
        verdict(&actions, OrderKind::Rollback),
        Some(Verdict::Failed(_))
    ));
    place(&one.waits_for(Timer::ColdTrial), &Action::Proved);
}

#[test]
fn one_that_is_alone_and_fails_goes_back_once() {
    for event in [
        Event::WorkersFailed("crash loop".into()),
        Event::Unhealthy("503".into()),
    ] {
        let (mut one, _) = alone_on_trial(Phase::Probation, Automatic);
        let actions = one.on(event.clone());
        assert!(goes_back(&actions));
        assert_eq!(concludes(&actions), Some(Outcome::Interrupted));
        let _ = one.on(Event::LaunchFailed(Failure::new("nothing to go back to")));
        assert!(!goes_back(&one.on(event)));
    }
}

#[test]
fn one_that_gave_up_goes_back_by_the_disk_when_its_predecessor_dies() {
    let (one, actions) = alone_on_trial(Phase::Yielded, Automatic);
    assert_eq!(one.phase(), Phase::Launching);
    assert!(goes_back(&actions) && !actions.contains(&Action::KeepDisk));
    assert_eq!(concludes(&actions), Some(Outcome::Interrupted));

    // Who ordered it is answered when it is done.
    let mut one = One::at(Phase::Probation, Automatic);
    let _ = one.order(Order::Rollback { nothing: None });
    let actions = one.on(Event::PredecessorClosed);
    assert_eq!(verdict(&actions, OrderKind::Rollback), None);
    let _ = one.on(Event::Launched(NEW_PID));
    let _ = one.told(FromSuccessor::Ready);
    let actions = one.told(FromSuccessor::Ready);
    assert_eq!(verdict(&actions, OrderKind::Rollback), Some(&Verdict::Done));

    // What supersedes it goes on from here.
    let mut one = One::at(Phase::Probation, Automatic);
    let _ = one.order(supersede());
    let actions = one.on(Event::PredecessorClosed);
    let next = Some(next());
    place(&actions, &Action::Launch { back: false, next });
    assert_eq!(verdict(&actions, OrderKind::Upgrade), None);

    // A configuration that was being read holds nothing up.
    let mut one = One::at(Phase::Probation, Automatic);
    let _ = one.order(Order::Reload);
    let _ = one.on(Event::Unhealthy("503".into()));
    let actions = one.on(Event::PredecessorClosed);
    assert!(goes_back(&actions));
    assert!(matches!(
        verdict(&actions, OrderKind::Reload),
        Some(Verdict::Failed(_))
    ));
}

#[test]
fn retire_wins_against_the_commit_that_crosses_it() {
    let mut one = One::at(Phase::Probation, Automatic);
    let _ = one.order(Order::Commit);
    let actions = one.hears(retire());
    assert!(matches!(
        verdict(&actions, OrderKind::Commit),
        Some(Verdict::Failed(_))
    ));
    place(&actions, &Action::ClosePredecessor);
    assert_eq!(one.phase(), Phase::Draining);
}

#[test]
fn a_probation_of_zero_commits_at_once() {
    let timing = Timing {
        probation: Duration::ZERO,
        ..Timing::default()
    };
    let mut one = One::successor_with(timing, Automatic).0;
    let _ = one.on(Event::WorkersReady);
    let actions = one.hears(FromPredecessor::Takeover);
    assert_order(
        &actions,
        &[Action::Accept, Action::ToPredecessor(FromSuccessor::Commit)],
    );
    assert_eq!(one.phase(), Phase::Committing);

    let mut pair = Pair::with(timing);
    assert_eq!(pair.order(&upgrade(Automatic)), Some(Verdict::Done));
    assert_eq!(pair.phases(), [Phase::Serving]);
    assert_eq!(pair.accepting(), [NEW]);
}

#[test]
fn workers_that_fail_in_probation_give_the_service_back() {
    for event in [
        Event::WorkersFailed("crash loop".into()),
        Event::Unhealthy("503".into()),
    ] {
        let mut pair = Pair::new();
        pair.order(&upgrade(Automatic));
        pair.event(NEW, event);
        assert_eq!(pair.phases(), [Phase::Serving]);
        assert_eq!((pair.accepting(), pair.main), (vec![OLD], OLD));
        place(
            &pair.log.iter().map(|x| x.1.clone()).collect::<Vec<_>>(),
            &Action::RestoreDisk,
        );
    }
}

#[test]
fn one_that_yielded_accepts_and_owns_the_service_until_the_other_one_does() {
    let mut one = One::at(Phase::Probation, Automatic);
    let actions = one.on(Event::Unhealthy("503".into()));
    assert_eq!(drain(&actions), None);
    assert!(!actions.contains(&Action::Quiesce));
    assert!(one.machine.owns() && one.machine.feeds_watchdog(true));
    let _ = one.hears(retire());
    assert!(!one.machine.owns() && !one.machine.feeds_watchdog(true));
}

#[test]
fn one_that_takes_back_feeds_the_watchdog_although_the_hung_one_still_owns() {
    let mut one = One::at(Phase::Parked, Automatic);
    assert!(!one.machine.feeds_watchdog(true));
    let _ = one.waits_for(Timer::Silence);
    assert_eq!(one.phase(), Phase::Reclaiming);
    assert!(one.machine.feeds_watchdog(true) && !one.machine.owns());
    let _ = one.on(closed());
    assert!(one.machine.owns());
}

#[test]
fn the_workers_of_one_that_takes_back_are_tried_for_ever() {
    let mut one = One::at(Phase::Reclaiming, Automatic);
    for _ in 0..100 {
        let why = "crash loop".to_owned();
        assert_eq!(
            one.on(Event::WorkersFailed(why.clone())),
            [Action::Note(Note::WorkersFail(why))]
        );
        assert_eq!(one.phase(), Phase::Reclaiming);
    }
    assert_eq!(one.machine.deadline(), None);
    let actions = one.on(Event::WorkersReady);
    place(
        &actions,
        &Action::ToSuccessor(FromPredecessor::Retire("rolled back by SIGHUP".into())),
    );
}
