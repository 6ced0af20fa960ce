//! What an order is answered.

use std::time::Duration;

use super::kit::*;
use crate::api::Outcome;
use crate::machine::event::{Event, Failure, FromPredecessor, FromSuccessor, Order, Signal};
use crate::machine::{Action, OrderKind, Phase, Timer, Verdict};

#[test]
fn a_superseding_upgrade_takes_back_first_and_leaves_the_disk_alone() {
    let mut pair = Pair::new();
    pair.order(&upgrade(Automatic));
    let first = pair.log.len();
    // The successor moves the order to the old one, which carries it out and answers it.
    pair.order(&supersede());
    let log: Vec<Action> = pair.log.split_off(first).into_iter().map(|x| x.1).collect();
    assert_order(
        &log,
        &[
            Action::Settle(OrderKind::Upgrade, Verdict::Moved),
            Action::Launch {
                back: false,
                next: Some(next()),
            },
            Action::Settle(OrderKind::Upgrade, Verdict::Done),
        ],
    );
    assert!(!log.contains(&Action::RestoreDisk));
    assert_eq!(pair.phases(), [Phase::Parked, Phase::Probation]);
}

#[test]
fn a_superseding_upgrade_is_not_lost_when_it_crosses_a_way_back() {
    let superseding = || FromSuccessor::Yield {
        reason: "superseded".into(),
        retire: true,
        then: Some(next()),
    };
    for (phase, mode) in [
        (Phase::Beside, Hold),
        (Phase::Reclaiming, Hold),
        (Phase::Evicting, Automatic),
    ] {
        let mut one = One::at(phase, mode);
        let mut actions = one.told(superseding());
        if phase == Phase::Reclaiming {
            actions.extend(one.on(Event::WorkersReady));
        }
        assert_eq!(one.phase(), Phase::Evicting);
        actions.extend(one.on(exited()));
        let launch = Action::Launch {
            back: false,
            next: Some(next()),
        };
        place(&actions, &launch);
        assert!(!actions.contains(&Action::RestoreDisk), "{phase}");
    }
}

#[test]
fn the_file_on_disk_is_restored_once_a_rollback_and_before_the_workers_are_ready() {
    let mut one = One::at(Phase::Parked, Automatic);
    let actions = one.order(Order::Rollback { nothing: None });
    place(&actions, &Action::RestoreDisk);
    let actions = one.on(Event::WorkersReady);
    assert!(enters(&actions, Phase::Evicting));
    assert!(!actions.contains(&Action::RestoreDisk));

    // Hold mode: nothing happens but what the signal says, till the new one is gone.
    let mut one = One::at(Phase::Parked, Hold);
    let actions = one.signal(Signal::Hup);
    assert!(!actions.contains(&Action::RestoreDisk));
    let actions = one.on(closed());
    place(&actions, &Action::RestoreDisk);
    assert!(!one.on(Event::WorkersReady).contains(&Action::RestoreDisk));
}

#[test]
fn a_commit_that_loses_against_the_way_back_is_answered_in_every_mode() {
    for (mode, word) in [(Automatic, retire()), (Hold, FromPredecessor::Ready)] {
        let mut one = One::at(Phase::Committing, mode);
        let actions = one.hears(word);
        assert!(matches!(
            verdict(&actions, OrderKind::Commit),
            Some(Verdict::Failed(_))
        ));
    }
}

#[test]
fn one_that_is_sent_away_answers_at_once_what_it_was_asked() {
    // Its workers may drain for minutes.
    let mut one = One::at(Phase::Probation, Automatic);
    let _ = one.order(Order::Reload);
    let actions = one.hears(retire());
    assert_eq!(one.phase(), Phase::Draining);
    assert!(matches!(
        verdict(&actions, OrderKind::Reload),
        Some(Verdict::Failed(_))
    ));
    assert_eq!(
        one.armed(crate::machine::Timer::Heartbeat),
        None,
        "nobody listens"
    );
}

#[test]
fn a_drain_ends_a_reload_that_is_under_way() {
    let mut one = One::at(Phase::Standby, Hold);
    let _ = one.signal(Signal::Hup);
    let _ = one.signal(Signal::Winch);
    // It owns the service some time later: as Serving, not for ever as Reloading.
    let actions = one.on(Event::PredecessorClosed);
    assert!(!enters(&actions, Phase::Reloading));
    assert_eq!(one.phase(), Phase::Serving);
}

/// Its workers and its application would be there till the next reload, and accept then.
#[test]
fn a_reload_that_a_drain_ends_is_put_away() {
    let mut one = One::at(Phase::Standby, Hold);
    let _ = one.signal(Signal::Hup);
    let actions = one.signal(Signal::Winch);
    let why = Failure::new("the workers drain");
    place(&actions, &Action::AbandonReload(why));
    assert_eq!(one.armed(Timer::Reload), None);
}

#[test]
fn a_reload_has_the_time_of_its_own_configuration() {
    let mut one = One::at(Phase::Serving, Automatic);
    let _ = one.order(Order::Reload);
    one.machine.begin_reload(Duration::from_secs(120), one.now);
    assert_eq!(one.armed(Timer::Reload), Some(Duration::from_secs(120)));
    let actions = one.waits_for(Timer::Reload);
    let Some(Verdict::Failed(failure)) = verdict(&actions, OrderKind::Reload) else {
        panic!("{actions:#?}");
    };
    assert!(failure.reason.contains("within 2m"), "{}", failure.reason);
}

#[test]
fn an_upgrade_is_written_down_once_and_told_to_all_who_wait() {
    let concluded = |pair: &Pair| -> Vec<(usize, Outcome)> {
        let of = |(who, a): &(usize, Action)| match a {
            Action::Conclude(outcome, _) => Some((*who, *outcome)),
            Action::Committed => Some((*who, Outcome::Committed)),
            _ => None,
        };
        pair.log.iter().filter_map(of).collect()
    };
    let mut pair = Pair::new();
    pair.order(&upgrade(Automatic));
    pair.order(&Order::Commit);
    assert_eq!(pair.phases(), [Phase::Serving]);
    // The old one for those who wait at its door, while its workers still drain.
    let both = [(OLD, Outcome::Committed), (NEW, Outcome::Committed)];
    assert_eq!(concluded(&pair), both);

    let mut pair = Pair::new();
    pair.order(&upgrade(Automatic));
    pair.order(&Order::Rollback { nothing: None });
    assert_eq!(concluded(&pair), [(OLD, Outcome::RolledBack)]);
}

#[test]
fn an_upgrade_rolled_back_before_it_had_a_process_was_rolled_back() {
    let mut one = One::at(Phase::Launching, Automatic);
    let actions = one.order(Order::Rollback { nothing: None });
    assert_order(&actions, &[Action::CancelLaunch, Action::RestoreDisk]);
    assert!(
        actions
            .iter()
            .any(|a| matches!(a, Action::Conclude(Outcome::RolledBack, Some(_))))
    );
    assert_eq!(verdict(&actions, OrderKind::Rollback), Some(&Verdict::Done));
    assert!(matches!(
        verdict(&actions, OrderKind::Upgrade),
        Some(Verdict::Failed(Failure { exit: 1, .. }))
    ));
    assert_eq!(one.phase(), Phase::Serving);
}

#[test]
fn a_second_rollback_after_the_commit_joins_the_first() {
    let mut one = One::at(Phase::Serving, Automatic);
    let back = Action::Launch {
        back: true,
        next: None,
    };
    place(&one.order(Order::Rollback { nothing: None }), &back);
    assert_eq!(one.order(Order::Rollback { nothing: None }), []);
    assert_eq!(one.phase(), Phase::Launching);
    let _ = one.on(Event::Launched(NEW_PID));
    // Ready to, and then: has taken over.
    let _ = one.told(FromSuccessor::Ready);
    let actions = one.told(FromSuccessor::Ready);
    assert_eq!(verdict(&actions, OrderKind::Rollback), Some(&Verdict::Done));
}

#[test]
fn quit_to_the_old_one_does_not_leave_it_to_one_that_gave_up() {
    // In hold mode: its workers fail, so it yields, and would not answer the wish for a commit.
    let mut one = One::at(Phase::Parked, Hold);
    let _ = one.told(yields(false));
    assert_eq!(one.phase(), Phase::Reclaiming);
    assert!(refuses(&one.signal(Signal::Quit), Signal::Quit));
    // One that is well keeps the service.
    let mut one = One::at(Phase::Reclaiming, Hold);
    let actions = one.signal(Signal::Quit);
    assert!(enters(&actions, Phase::Parked));
}

#[test]
fn a_hang_up_does_not_undo_a_step_back() {
    // The reloaded workers would accept.
    for step_back in [Signal::Usr2, Signal::Winch] {
        let mut one = One::at(Phase::Standby, Hold);
        let _ = one.signal(step_back);
        assert!(refuses(&one.signal(Signal::Hup), Signal::Hup));
    }
    let mut one = One::at(Phase::Standby, Hold);
    assert_eq!(one.signal(Signal::Hup), [Action::Reload]);
}

#[test]
fn yielding_waits_for_the_other_one_and_tells_why() {
    let mut one = One::at(Phase::Probation, Automatic);
    let actions = one.order(Order::Rollback { nothing: None });
    place(
        &actions,
        &Action::ToPredecessor(FromSuccessor::Yield {
            reason: "rolled back by an order".into(),
            retire: true,
            then: None,
        }),
    );
    assert_eq!(verdict(&actions, OrderKind::Rollback), None);
    let actions = one.hears(retire());
    assert_eq!(verdict(&actions, OrderKind::Rollback), Some(&Verdict::Done));
}
