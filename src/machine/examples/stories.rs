//! Whole stories: nginx's documentation word for word, tests/walkthrough.rs, and upgrades by
//! order.

use std::time::Duration;

use super::kit::*;
use crate::machine::event::{Event, Order, Signal};
use crate::machine::{Action, Phase, Verdict};

/// One line of the walkthrough, and what `ps` and `status` show after it.
/// Who gets which signal; the phases, who accepts and who is the main process afterwards.
type Line<'a> = (usize, Signal, &'a [Phase], &'a [usize], usize);

fn tell(pair: &mut Pair, lines: &[Line<'_>]) {
    for (who, signal, phases, accepting, main) in lines {
        pair.signal(*who, *signal);
        let line = format!("kill -{} to {who}", signal.as_str());
        assert_eq!(pair.phases(), *phases, "{line}");
        assert_eq!(pair.accepting(), *accepting, "{line}");
        assert_eq!(pair.main, *main, "{line}");
    }
}

use Phase::{Beside, Parked, Probation, Serving, Standby};
use Signal::{Hup, Quit, Term, Usr2, Winch};

#[test]
fn the_walkthrough_forward() {
    tell(
        &mut Pair::new(),
        &[
            (OLD, Usr2, &[Beside, Standby], &[OLD, NEW], OLD),
            (OLD, Winch, &[Parked, Probation], &[NEW], NEW),
            (OLD, Quit, &[Serving], &[NEW], NEW),
        ],
    );
}

#[test]
fn the_walkthrough_back() {
    tell(
        &mut Pair::new(),
        &[
            (OLD, Usr2, &[Beside, Standby], &[OLD, NEW], OLD),
            (OLD, Winch, &[Parked, Probation], &[NEW], NEW),
            (OLD, Hup, &[Beside, Standby], &[OLD, NEW], OLD),
            (NEW, Usr2, &[Beside, Standby], &[OLD], OLD),
            (NEW, Winch, &[Beside, Standby], &[OLD], OLD),
            (NEW, Quit, &[Serving], &[OLD], OLD),
        ],
    );
}

#[test]
fn nginx_back_by_hup_to_the_old_one_and_quit_to_the_new_one() {
    tell(
        &mut Pair::new(),
        &[
            (OLD, Usr2, &[Beside, Standby], &[OLD, NEW], OLD),
            (OLD, Winch, &[Parked, Probation], &[NEW], NEW),
            (OLD, Hup, &[Beside, Standby], &[OLD, NEW], OLD),
            (NEW, Quit, &[Serving], &[OLD], OLD),
        ],
    );
}

#[test]
fn nginx_back_by_term_to_the_new_one() {
    // "... all of its worker processes exit, and the old master starts new workers."
    tell(
        &mut Pair::new(),
        &[
            (OLD, Usr2, &[Beside, Standby], &[OLD, NEW], OLD),
            (OLD, Winch, &[Parked, Probation], &[NEW], NEW),
            (NEW, Term, &[Serving], &[OLD], OLD),
        ],
    );
}

#[test]
fn back_and_forward_again_as_often_as_one_likes() {
    let mut pair = Pair::new();
    pair.signal(OLD, Usr2);
    for _ in 0..3 {
        tell(
            &mut pair,
            &[
                (OLD, Winch, &[Parked, Probation], &[NEW], NEW),
                (OLD, Hup, &[Beside, Standby], &[OLD, NEW], OLD),
                (NEW, Winch, &[Beside, Standby], &[OLD], OLD),
            ],
        );
    }
    tell(
        &mut pair,
        &[
            (OLD, Winch, &[Parked, Probation], &[NEW], NEW),
            (OLD, Quit, &[Serving], &[NEW], NEW),
        ],
    );
}

#[test]
fn a_new_one_that_is_killed_in_the_middle_of_a_walkthrough_is_met_by_the_old_one() {
    for park in [false, true] {
        let mut pair = Pair::new();
        pair.signal(OLD, Usr2);
        if park {
            pair.signal(OLD, Winch);
        }
        pair.kill(NEW);
        assert_eq!(pair.phases(), [Serving]);
        assert_eq!((pair.accepting(), pair.main), (vec![OLD], OLD));
        // And the next one works.
        pair.signal(OLD, Usr2);
        assert_eq!(pair.phases(), [Beside, Standby]);
    }
}

#[test]
fn an_upgrade_by_order_commits_itself() {
    let mut pair = Pair::new();
    assert_eq!(pair.order(&upgrade(Automatic)), Some(Verdict::Done));
    assert_eq!((pair.accepting(), pair.main), (vec![NEW], NEW));
    pair.advance(Duration::from_secs(60));
    assert_eq!(pair.phases(), [Serving]);
    assert_eq!((pair.accepting(), pair.main), (vec![NEW], NEW));
    // Nobody was hurt.
    for (who, action) in &pair.log {
        let violent = matches!(
            action,
            Action::EndSuccessor(Signal::Term)
                | Action::KillSuccessor
                | Action::EndDrainer(..)
                | Action::KillPredecessor
                | Action::KillWorkers
        );
        assert!(!violent, "{who}: {action:?}");
    }
}

#[test]
fn an_upgrade_by_order_goes_back_by_order() {
    let mut pair = Pair::new();
    pair.order(&upgrade(Automatic));
    pair.advance(Duration::from_secs(30));
    assert_eq!(
        pair.order(&Order::Rollback { nothing: None }),
        Some(Verdict::Done)
    );
    assert_eq!(pair.phases(), [Serving]);
    assert_eq!((pair.accepting(), pair.main), (vec![OLD], OLD));
}

#[test]
fn a_new_one_that_dies_in_probation_is_met_by_the_old_one() {
    let mut pair = Pair::new();
    pair.order(&upgrade(Automatic));
    pair.kill(NEW);
    assert_eq!(pair.phases(), [Serving]);
    assert_eq!((pair.accepting(), pair.main), (vec![OLD], OLD));
}

#[test]
fn an_old_one_that_dies_while_parked_leaves_the_new_one_serving() {
    let mut pair = Pair::new();
    pair.order(&upgrade(Automatic));
    pair.kill(OLD);
    assert_eq!(pair.phases(), [Serving]);
    assert_eq!((pair.accepting(), pair.main), (vec![NEW], NEW));
}

#[test]
fn a_rollback_lets_what_the_new_one_holds_finish() {
    let mut pair = Pair::new();
    pair.order(&upgrade(Automatic));
    pair.new_one().busy = true;
    assert_eq!(
        pair.order(&Order::Rollback { nothing: None }),
        Some(Verdict::Done)
    );
    assert_eq!(pair.accepting(), [OLD]);
    pair.advance(Duration::from_secs(590));
    assert_eq!(pair.phases(), [Phase::Evicting, Phase::Draining]);
    pair.event(NEW, Event::WorkersGone);
    assert_eq!(pair.phases(), [Serving]);
    assert!(
        !pair
            .log
            .contains(&(OLD, Action::EndSuccessor(Signal::Term)))
    );
}
