//! Generations that only drain, who is named main, and workers that keep failing.

use std::time::Duration;

use super::kit::*;
use crate::machine::event::{Event, FromPredecessor, Order, Signal};
use crate::machine::message::Supersede;
use crate::machine::{Action, Note, OrderKind, Phase, Timer, Verdict, Who};

fn joins(pid: u32) -> Event {
    let limit = Some(Duration::from_secs(600));
    Event::DrainerJoined { pid, limit }
}

#[test]
fn a_stop_reaches_those_that_only_drain_waits_for_them_and_kills_who_stays() {
    let mut one = One::at(Phase::Serving, Automatic);
    let _ = one.on(joins(7));
    let _ = one.on(joins(8));
    let actions = one.order(Order::Stop);
    place(&actions, &Action::TermDrainer(7));
    place(&actions, &Action::TermDrainer(8));
    assert!(!actions.contains(&Action::NotifyStopping));
    assert_eq!(one.on(Event::DrainerGone(8)), []);
    let _ = one.on(Event::WorkersGone);
    assert_eq!(one.phase(), Phase::Draining, "one is there still");
    assert_eq!(one.waits_for(Timer::Drainer), [Action::KillDrainer(7)]);
    let actions = one.on(Event::DrainerGone(7));
    assert_order(
        &actions,
        &[
            Action::NotifyStopping,
            Action::Settle(OrderKind::Stop, Verdict::Done),
            Action::Exit(0),
        ],
    );
}

/// QUIT waits for whoever drains, as long as that may take; a TERM or a `stop` after it does not.
#[test]
fn a_stop_after_quit_reaches_those_that_only_drain() {
    let hurry: [fn(&mut One) -> Vec<Action>; 3] = [
        |one| one.signal(Signal::Term),
        |one| one.signal(Signal::Int),
        |one| one.order(Order::Stop),
    ];
    for hurry in hurry {
        let mut one = One::at(Phase::Serving, Automatic);
        let _ = one.on(joins(7));
        let actions = one.signal(Signal::Quit);
        assert!(!actions.contains(&Action::TermDrainer(7)), "{actions:#?}");
        let actions = hurry(&mut one);
        place(&actions, &Action::TermDrainer(7));
        // Said once, however often it is asked.
        let again = hurry(&mut one);
        assert!(!again.contains(&Action::TermDrainer(7)), "{again:#?}");
        assert_eq!(one.waits_for(Timer::Drainer), [Action::KillDrainer(7)]);

        // A predecessor that drains since its commit, and a rejected successor.
        let mut one = One::at(Phase::Committing, Automatic);
        let _ = one.on(Event::PredecessorClosed);
        let actions = one.signal(Signal::Quit);
        assert!(!actions.contains(&Action::TermPredecessor), "{actions:#?}");
        place(&hurry(&mut one), &Action::TermPredecessor);
        assert!(!hurry(&mut one).contains(&Action::TermPredecessor));
        assert_eq!(one.waits_for(Timer::Commit), [Action::KillPredecessor]);
    }
}

/// It is not for one that owns nothing to end those that drain.
#[test]
fn only_the_owner_kills_who_drains_for_too_long() {
    let mut one = One::at(Phase::Standby, Automatic);
    let _ = one.on(joins(7));
    assert_eq!(one.armed(Timer::Drainer), None);
    let _ = one.hears(FromPredecessor::Takeover);
    assert_eq!(one.waits_for(Timer::Drainer), [Action::KillDrainer(7)]);
}

#[test]
fn a_generation_in_probation_is_not_given_up_when_too_many_drain() {
    let supersedes = |end_oldest| Order::Upgrade {
        hold: false,
        current: false,
        end_oldest,
        supersede: Some(Supersede {
            id: "next".into(),
            hold: false,
            probation_ms: None,
            release: false,
        }),
    };
    let mut one = One::at(Phase::Probation, Automatic);
    for pid in 0..8 {
        let _ = one.on(joins(pid));
    }
    let full = Action::Settle(OrderKind::Upgrade, Verdict::Full);
    assert_eq!(one.order(supersedes(false)), [full]);
    assert_eq!(one.phase(), Phase::Probation);
    place(&one.order(supersedes(true)), &Action::TermDrainer(0));
    assert_eq!(one.phase(), Phase::Yielded);
}

#[test]
fn one_that_drains_for_too_long_is_killed_once() {
    let mut one = One::at(Phase::Serving, Automatic);
    let _ = one.on(joins(7));
    assert_eq!(one.waits_for(Timer::Drainer), [Action::KillDrainer(7)]);
    assert_eq!(one.armed(Timer::Drainer), None);
}

#[test]
fn when_too_many_drain_an_upgrade_is_refused_or_ends_the_oldest() {
    let mut one = One::at(Phase::Serving, Automatic);
    for pid in 0..8 {
        let _ = one.on(joins(pid));
    }
    let full = Action::Settle(OrderKind::Upgrade, Verdict::Full);
    assert_eq!(one.order(upgrade(Automatic)), [full]);
    assert!(matches!(
        one.signal(Signal::Usr2)[..],
        [Action::Note(Note::SignalRefused(Signal::Usr2, _))]
    ));
    // Who said its last word does not count, and is not the one that is ended.
    let _ = one.on(Event::DrainerDone(0));
    let _ = one.on(joins(9));
    let order = Order::Upgrade {
        hold: false,
        current: false,
        end_oldest: true,
        supersede: None,
    };
    place(&one.order(order), &Action::TermDrainer(1));
    assert_eq!(one.phase(), Phase::Launching);
}

/// The service manager misses a word: it is said again until it is heard, and nothing is done
/// meanwhile that relies on it.
#[test]
fn a_lost_word_about_the_main_process_is_said_again() {
    let mut one = One::at(Phase::Standby, Automatic);
    let _ = one.hears(FromPredecessor::Takeover);
    let _ = one.hears(FromPredecessor::Commit);
    let unheard = Event::MainNamed {
        who: Who::Me,
        done: false,
    };
    assert!(one.machine.main() == Some(Who::Me));
    let _ = one.machine.step(unheard.clone(), one.now);
    assert_eq!(one.machine.main(), None);
    for _ in 0..3 {
        one.now = one.machine.armed(Timer::Name).expect("it is said again");
        let actions = one.machine.step(Event::Timer(Timer::Name), one.now);
        assert_eq!(actions, [Action::NameMain(Who::Me)]);
        let _ = one.machine.step(unheard.clone(), one.now);
    }
    let _ = one.on(named(Who::Me));
    assert_eq!(one.machine.main(), Some(Who::Me));
}

#[test]
fn a_dead_successor_stays_a_zombie_until_the_manager_knows_better() {
    let mut one = One::at(Phase::Parked, Automatic);
    let actions = one.machine.step(exited(), one.now);
    place(&actions, &Action::NameMain(Who::Me));
    let (who, done) = (Who::Me, false);
    let _ = one.machine.step(Event::MainNamed { who, done }, one.now);
    let actions = one.machine.step(Event::WorkersReady, one.now);
    assert!(!actions.contains(&Action::ReapSuccessor), "{actions:#?}");
    assert_eq!(one.phase(), Phase::Evicting);
    let actions = one.on(named(Who::Me));
    place(&actions, &Action::ReapSuccessor);
    assert_eq!(one.phase(), Phase::Serving);
}

/// systemd would see "active" with nobody there.
#[test]
fn one_that_takes_back_and_whose_workers_keep_failing_feeds_no_watchdog() {
    let mut one = One::at(Phase::Reclaiming, Automatic);
    assert!(one.machine.feeds_watchdog(false));
    let _ = one.on(Event::WorkersFailed("they keep dying".into()));
    assert!(!one.machine.feeds_watchdog(false) && !one.machine.feeds_watchdog(true));
    let _ = one.on(Event::WorkersReady);
    assert!(one.machine.feeds_watchdog(true));
    assert!(!one.machine.feeds_watchdog(false));
}
