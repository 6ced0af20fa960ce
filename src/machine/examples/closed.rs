//! What is done is answered when those who leave accept no more: who connects then meets those who stay.

use std::time::Duration;

use super::kit::*;
use crate::machine::event::{Event, FromPredecessor, FromSuccessor, Order};
use crate::machine::{Action, OrderKind, Phase, Timer, Verdict};

const ROLLBACK: Order = Order::Rollback { nothing: None };
const ROLLED_BACK: Action = Action::Settle(OrderKind::Rollback, Verdict::Done);

/// It has taken over; the old workers were told, and have not said anything yet.
fn taken_over() -> One {
    let mut one = ready(slow(Phase::Launching, Automatic));
    let actions = one.told(FromSuccessor::Ready);
    assert_eq!(verdict(&actions, OrderKind::Upgrade), None);
    one
}

#[test]
fn an_upgrade_is_answered_when_the_old_workers_accept_no_more() {
    let mut one = taken_over();
    let actions = one.on(Event::WorkersClosed);
    assert_eq!(actions, [Action::Settle(OrderKind::Upgrade, Verdict::Done)]);
    // In the other order too.
    let mut one = ready(slow(Phase::Launching, Automatic));
    assert_eq!(one.on(Event::WorkersClosed), []);
    let actions = one.told(FromSuccessor::Ready);
    assert_eq!(verdict(&actions, OrderKind::Upgrade), Some(&Verdict::Done));
}

#[test]
fn a_rollback_is_answered_when_the_new_workers_accept_no_more_and_only_then_the_channel_ends() {
    for end in [Event::WorkersClosed, Event::WorkersGone] {
        let mut new = slow(Phase::Probation, Automatic);
        let mut actions = new.order(ROLLBACK);
        actions.extend(new.hears(retire()));
        assert_eq!(verdict(&actions, OrderKind::Rollback), None);
        assert!(!actions.contains(&Action::ClosePredecessor), "{actions:#?}");
        // Whoever wants the same waits for the same.
        assert_eq!(new.order(ROLLBACK), []);
        assert_order(&new.on(end), &[ROLLED_BACK, Action::ClosePredecessor]);
    }
}

/// Whoever asks the other one then is known there.
#[test]
fn an_upgrade_that_goes_on_elsewhere_is_let_go_of_when_the_channel_ends() {
    let mut new = slow(Phase::Probation, Automatic);
    let _ = new.order(supersede());
    let actions = new.hears(retire());
    assert_eq!(verdict(&actions, OrderKind::Upgrade), None);
    let moved = Action::Settle(OrderKind::Upgrade, Verdict::Moved);
    assert_order(
        &new.on(Event::WorkersClosed),
        &[moved, Action::ClosePredecessor],
    );
}

#[test]
fn the_old_one_answers_a_rollback_when_the_new_one_ends_the_channel() {
    for end in [closed(), exited()] {
        let mut old = slow(Phase::Beside, Hold);
        let actions = old.order(ROLLBACK);
        assert_eq!(old.phase(), Phase::Evicting);
        assert!(!actions.contains(&ROLLED_BACK), "{actions:#?}");
        place(&old.on(end), &ROLLED_BACK);
    }
}

#[test]
fn a_reload_is_answered_when_the_workers_of_before_accept_no_more() {
    let mut one = slow(Phase::Serving, Automatic);
    let _ = one.order(Order::Reload);
    let actions = one.on(Event::Reloaded);
    assert_eq!(one.phase(), Phase::Serving);
    assert_eq!(verdict(&actions, OrderKind::Reload), None);
    // The answer to this one would be taken for the answer to that one.
    let actions = one.order(Order::Reload);
    let refused = verdict(&actions, OrderKind::Reload);
    assert!(matches!(refused, Some(Verdict::Refused(_))), "{refused:?}");
    let actions = one.on(Event::WorkersClosed);
    assert_eq!(actions, [Action::Settle(OrderKind::Reload, Verdict::Done)]);
}

#[test]
fn who_leaves_and_hangs_holds_no_answer_up_for_long() {
    let mut old = taken_over();
    assert_eq!(old.armed(Timer::Close), Some(Duration::from_secs(1)));
    let actions = old.waits_for(Timer::Close);
    assert_eq!(actions, [Action::Settle(OrderKind::Upgrade, Verdict::Done)]);
    let mut new = slow(Phase::Yielded, Automatic);
    let _ = new.order(ROLLBACK);
    let _ = new.hears(retire());
    let actions = new.waits_for(Timer::Close);
    assert_eq!(actions, [ROLLED_BACK, Action::ClosePredecessor]);
    let mut old = slow(Phase::Beside, Hold);
    let _ = old.order(ROLLBACK);
    assert_eq!(old.waits_for(Timer::Close), [ROLLED_BACK]);
}

#[test]
fn an_upgrade_that_is_undone_before_it_was_answered_has_failed() {
    let mut one = taken_over();
    let mut actions = one.on(exited());
    actions.extend(one.on(Event::WorkersReady));
    let verdict = verdict(&actions, OrderKind::Upgrade);
    assert!(matches!(verdict, Some(Verdict::Failed(_))), "{verdict:?}");
    assert_eq!(one.armed(Timer::Close), None);
}

#[test]
fn an_upgrade_without_a_probation_is_answered_before_it_is_said_to_be_final() {
    let mut one = taken_over();
    let actions = one.told(FromSuccessor::Commit);
    assert!(!actions.contains(&Action::CloseSuccessor), "{actions:#?}");
    let upgraded = Action::Settle(OrderKind::Upgrade, Verdict::Done);
    assert_eq!(
        one.on(Event::WorkersClosed),
        [upgraded, Action::CloseSuccessor, Action::Committed]
    );
}

#[test]
fn a_master_that_leaves_for_good_has_answered() {
    let mut new = slow(Phase::Yielded, Automatic);
    let _ = new.order(ROLLBACK);
    let _ = new.hears(FromPredecessor::Retire("rolled back".into()));
    let actions = new.on(Event::WorkersGone);
    assert_order(
        &actions,
        &[ROLLED_BACK, Action::ClosePredecessor, Action::Exit(0)],
    );
}

#[test]
fn a_second_commit_waits_for_the_same_as_the_first() {
    let mut new = slow(Phase::Probation, Automatic);
    let _ = new.order(Order::Reload);
    let _ = new.on(Event::Reloaded);
    let _ = new.order(Order::Commit);
    let committed = Action::Settle(OrderKind::Commit, Verdict::Done);
    let actions = new.on(Event::PredecessorClosed);
    assert_eq!(verdict(&actions, OrderKind::Commit), None);
    assert_eq!(new.order(Order::Commit), []);
    place(&new.on(Event::WorkersClosed), &committed);
    // From then on it is so already.
    let actions = new.order(Order::Commit);
    let so = verdict(&actions, OrderKind::Commit);
    assert!(matches!(so, Some(Verdict::Already(_))), "{so:?}");
}

/// In hold mode it is done when both accept; workers of an earlier reload hold its answer back.
fn beside_and_not_answered() -> One {
    let mut one = slow(Phase::Reloading, Hold);
    let _ = one.on(Event::Reloaded);
    let _ = one.order(upgrade(Hold));
    let one = ready(one);
    assert_eq!(one.phase(), Phase::Beside);
    one
}

#[test]
fn an_upgrade_in_hold_mode_that_is_undone_before_it_was_answered_has_failed() {
    for (event, done) in [(exited(), false), (Event::Order(ROLLBACK), true)] {
        let mut one = beside_and_not_answered();
        let mut actions = one.on(event);
        let upgrade = verdict(&actions, OrderKind::Upgrade);
        assert!(matches!(upgrade, Some(Verdict::Failed(_))), "{upgrade:?}");
        actions = one.on(exited());
        actions.extend(one.on(Event::WorkersClosed));
        assert_eq!(verdict(&actions, OrderKind::Upgrade), None);
        assert_eq!(actions.contains(&ROLLED_BACK), done);
    }
}

#[test]
fn a_reload_that_is_done_stays_so_whatever_becomes_of_the_upgrade_after_it() {
    let mut one = slow(Phase::Serving, Automatic);
    let _ = one.order(Order::Reload);
    let _ = one.on(Event::Reloaded);
    let _ = one.order(upgrade(Automatic));
    let mut one = ready(one);
    assert_eq!(one.phase(), Phase::Parked);
    let mut actions = one.on(exited());
    actions.extend(one.on(Event::WorkersClosed));
    place(&actions, &Action::Settle(OrderKind::Reload, Verdict::Done));
}

/// It ends the channel a second after it was told, which may be late by all that the disk takes.
#[test]
fn who_is_sent_away_and_whose_workers_hang_is_not_pressed_before_its_word_can_come() {
    let old = slow(Phase::Evicting, Automatic);
    let timing = old.machine.timing;
    assert_eq!(old.armed(Timer::Evict), Some(timing.evict + timing.close));
}
