//! What a master knows of its own workers.

use super::kit::*;
use crate::machine::event::FromPredecessor;
use crate::machine::event::{Event, FromSuccessor, Signal};
use crate::machine::{Action, Phase};

#[test]
fn workers_that_all_died_at_once_are_drained_like_any_others() {
    // The pool starts them again; only the machine could forget them.
    let mut one = One::at(Phase::Launching, Automatic);
    let _ = one.on(Event::WorkersGone);
    let _ = one.on(Event::Launched(NEW_PID));
    let actions = one.told(FromSuccessor::Ready);
    assert!(drain(&actions).is_some(), "{actions:#?}");
}

#[test]
fn the_end_of_an_old_set_says_nothing_about_the_one_that_starts() {
    let mut one = One::at(Phase::Launching, Automatic);
    let _ = one.on(Event::Launched(NEW_PID));
    let _ = one.told(FromSuccessor::Ready);
    let _ = one.signal(Signal::Hup);
    assert_eq!(one.phase(), Phase::Reclaiming);
    let _ = one.on(Event::WorkersGone);
    let actions = one.on(Event::WorkersReady);
    assert_order(
        &actions,
        &[
            Action::Accept,
            Action::ToSuccessor(FromPredecessor::Retire("rolled back by SIGHUP".into())),
        ],
    );
}
