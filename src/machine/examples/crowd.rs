//! Generations that only drain, who is named main, and workers that keep failing.

use std::time::Duration;

use super::kit::*;
use crate::machine::event::{Event, FromPredecessor, Order, Signal};
use crate::machine::message::Supersede;
use crate::machine::{Action, Note, OrderKind, Phase, Timer, Verdict, Who};

/// One more generation only drains.
fn joins(one: &mut One, pid: u32) {
    let limit = Some(Duration::from_secs(600));
    one.machine.know_drainer(pid, limit, false, one.now);
}

#[test]
fn a_stop_reaches_those_that_only_drain_waits_for_them_and_kills_who_stays() {
    let mut one = One::at(Phase::Serving, Automatic);
    joins(&mut one, 7);
    joins(&mut one, 8);
    let actions = one.order(Order::Stop);
    place(&actions, &Action::EndDrainer(7, Signal::Term));
    place(&actions, &Action::EndDrainer(8, Signal::Term));
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
    type Hurry = fn(&mut One) -> Vec<Action>;
    let hurry: [(Hurry, Signal); 3] = [
        (|one| one.signal(Signal::Term), Signal::Term),
        (|one| one.signal(Signal::Int), Signal::Int),
        (|one| one.order(Order::Stop), Signal::Term),
    ];
    for (hurry, how) in hurry {
        let mut one = One::at(Phase::Serving, Automatic);
        joins(&mut one, 7);
        let actions = one.signal(Signal::Quit);
        assert!(
            !actions.contains(&Action::EndDrainer(7, how)),
            "{actions:#?}"
        );
        let actions = hurry(&mut one);
        place(&actions, &Action::EndDrainer(7, how));
        // Said once, however often it is asked.
        let again = hurry(&mut one);
        assert!(!again.contains(&Action::EndDrainer(7, how)), "{again:#?}");
        assert_eq!(one.waits_for(Timer::Drainer), [Action::KillDrainer(7)]);

        // A predecessor that drains since its commit, and a rejected successor.
        let mut one = One::at(Phase::Committing, Automatic);
        let _ = one.on(Event::PredecessorClosed);
        let actions = one.signal(Signal::Quit);
        assert!(
            !actions.contains(&Action::EndDrainer(OLD_PID, how)),
            "{actions:#?}"
        );
        place(&hurry(&mut one), &Action::EndDrainer(OLD_PID, how));
        assert!(!hurry(&mut one).contains(&Action::EndDrainer(OLD_PID, how)));
        assert_eq!(
            one.waits_for(Timer::Drainer),
            [Action::KillDrainer(OLD_PID)]
        );
    }
}

/// INT is now: what they hold is cut, and who was asked politely before hears it too.
#[test]
fn int_cuts_what_others_drain() {
    let mut one = One::at(Phase::Serving, Automatic);
    joins(&mut one, 7);
    place(
        &one.order(Order::Stop),
        &Action::EndDrainer(7, Signal::Term),
    );
    assert_eq!(one.armed(Timer::Drainer), Some(Duration::from_secs(13)));
    let actions = one.signal(Signal::Int);
    place(&actions, &Action::EndDrainer(7, Signal::Int));
    assert_eq!(one.armed(Timer::Drainer), Some(Duration::from_secs(3)));
    assert!(
        !one.signal(Signal::Int)
            .contains(&Action::EndDrainer(7, Signal::Int))
    );
}

/// It drains as any other one, so it counts, and room can be made of it.
#[test]
fn a_former_predecessor_is_one_of_those_that_drain() {
    let timing = crate::machine::Timing {
        generations: 1,
        ..Default::default()
    };
    let mut one = One::successor_with(timing, Automatic).0;
    let _ = one.on(Event::WorkersReady);
    let _ = one.hears(FromPredecessor::Takeover);
    assert!(one.machine.drainers().is_empty());
    let _ = one.on(Event::PredecessorClosed);
    assert_eq!(one.machine.drainers(), [OLD_PID]);
    let full = Action::Settle(OrderKind::Upgrade, Verdict::Full);
    assert_eq!(one.order(upgrade(Automatic)), [full]);
    // Who said its last word does not count, though its process is there.
    let mut over = one.clone();
    let _ = over.on(Event::DrainerDone(OLD_PID));
    assert!(over.machine.drainers().is_empty());
    let _ = over.order(upgrade(Automatic));
    assert_eq!(over.phase(), Phase::Launching);

    let end_oldest = Order::Upgrade {
        hold: false,
        current: false,
        end_oldest: true,
        supersede: None,
    };
    place(
        &one.order(end_oldest),
        &Action::EndDrainer(OLD_PID, Signal::Term),
    );
    assert_eq!(one.phase(), Phase::Launching);
    let _ = one.on(Event::PredecessorExited);
    assert_eq!(one.armed(Timer::Drainer), None);
}

/// Also in the very step in which it is let go.
#[test]
fn a_rejected_one_is_counted_among_those_that_drain() {
    let rejected = || {
        let mut one = One::at(Phase::Evicting, Automatic);
        for pid in 0..7 {
            joins(&mut one, pid);
        }
        let _ = one.on(closed());
        let mut all: Vec<u32> = (0..7).collect();
        all.push(NEW_PID);
        assert_eq!(one.machine.drainers(), all);
        one
    };
    let mut one = rejected();
    let actions = one.signal(Signal::Usr2);
    assert!(refuses(&actions, Signal::Usr2), "{actions:#?}");
    assert_eq!(one.phase(), Phase::Serving);
    let mut one = rejected();
    let full = Verdict::Full;
    let actions = one.order(upgrade(Automatic));
    assert_eq!(verdict(&actions, OrderKind::Upgrade), Some(&full));
    let end_oldest = Order::Upgrade {
        hold: false,
        current: false,
        end_oldest: true,
        supersede: None,
    };
    place(&one.order(end_oldest), &Action::EndDrainer(0, Signal::Term));
    assert_eq!(one.phase(), Phase::Launching);
}

/// It is not for one that owns nothing to end those that drain.
#[test]
fn only_the_owner_kills_who_drains_for_too_long() {
    let mut one = One::at(Phase::Standby, Automatic);
    joins(&mut one, 7);
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
        joins(&mut one, pid);
    }
    let full = Action::Settle(OrderKind::Upgrade, Verdict::Full);
    assert_eq!(one.order(supersedes(false)), [full]);
    assert_eq!(one.phase(), Phase::Probation);
    place(
        &one.order(supersedes(true)),
        &Action::EndDrainer(0, Signal::Term),
    );
    assert_eq!(one.phase(), Phase::Yielded);
}

#[test]
fn one_that_drains_for_too_long_is_killed_once() {
    let mut one = One::at(Phase::Serving, Automatic);
    joins(&mut one, 7);
    assert_eq!(one.waits_for(Timer::Drainer), [Action::KillDrainer(7)]);
    assert_eq!(one.armed(Timer::Drainer), None);
}

#[test]
fn when_too_many_drain_an_upgrade_is_refused_or_ends_the_oldest() {
    let mut one = One::at(Phase::Serving, Automatic);
    for pid in 0..8 {
        joins(&mut one, pid);
    }
    let full = Action::Settle(OrderKind::Upgrade, Verdict::Full);
    assert_eq!(one.order(upgrade(Automatic)), [full]);
    assert!(matches!(
        one.signal(Signal::Usr2)[..],
        [Action::Note(Note::SignalRefused(Signal::Usr2, _))]
    ));
    // Who said its last word does not count, and is not the one that is ended.
    let _ = one.on(Event::DrainerDone(0));
    joins(&mut one, 9);
    let order = Order::Upgrade {
        hold: false,
        current: false,
        end_oldest: true,
        supersede: None,
    };
    place(&one.order(order), &Action::EndDrainer(1, Signal::Term));
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

/// MAINPID alone would leave the unit starting until systemd gives it up.
#[test]
fn a_lost_ready_is_said_again_as_ready() {
    let (mut one, _) = One::first();
    let actions = one.machine.step(Event::WorkersReady, one.now);
    place(&actions, &Action::NotifyReady);
    let unheard = Event::MainNamed {
        who: Who::Me,
        done: false,
    };
    for _ in 0..2 {
        let _ = one.machine.step(unheard.clone(), one.now);
        one.now = one.machine.armed(Timer::Name).expect("it is said again");
        let actions = one.machine.step(Event::Timer(Timer::Name), one.now);
        assert_eq!(actions, [Action::NotifyReady]);
    }
    // Only the answer to READY counts: somebody may name us for another reason.
    let _ = one.on(named(Who::Me));
    let actions = one.order(upgrade(Automatic));
    let verdict = verdict(&actions, OrderKind::Upgrade);
    assert!(matches!(verdict, Some(Verdict::Refused(_))), "{actions:#?}");
    assert!(refuses(&one.signal(Signal::Usr2), Signal::Usr2));
    let _ = one.machine.step(unheard.clone(), one.now);
    assert_eq!(one.waits_for(Timer::Name)[0], Action::NotifyReady);
    assert_eq!(one.machine.armed(Timer::Name), None);
    // From now on it is about the main process alone; also when it was another one in between.
    let _ = one.machine.step(unheard, one.now);
    assert_eq!(one.waits_for(Timer::Name), [Action::NameMain(Who::Me)]);
}

/// The trial is what `StartedCold` begins.
#[test]
fn a_ready_that_is_said_again_does_not_begin_the_trial_anew() {
    let (mut one, _) = One::first();
    let mut actions = one.machine.step(Event::WorkersReady, one.now);
    let unheard = Event::MainNamed {
        who: Who::Me,
        done: false,
    };
    let _ = one.machine.step(unheard, one.now);
    actions.extend(one.waits_for(Timer::Name));
    let began = |a: &&Action| **a == Action::StartedCold;
    assert_eq!(actions.iter().filter(began).count(), 1, "{actions:#?}");
}

/// The success of one naming would hide that the other one failed.
#[test]
fn a_predecessor_whose_end_was_heard_before_its_eof_is_one_naming() {
    let unheard = Event::MainNamed {
        who: Who::Me,
        done: false,
    };
    for phase in [Phase::Standby, Phase::Committing, Phase::Yielded] {
        let mut one = One::at(phase, Automatic);
        let _ = one.on(Event::PredecessorExited);
        let actions = one.machine.step(Event::PredecessorClosed, one.now);
        let naming = |a: &&Action| matches!(a, Action::NameMain(_) | Action::Reclaim);
        let namings: Vec<_> = actions.iter().filter(naming).collect();
        assert_eq!(namings, [&Action::Reclaim], "{phase}");
        if phase == Phase::Standby {
            // Or there is nobody to name in between.
            assert_order(&actions, &[Action::Accept, Action::Reclaim]);
        }
        let _ = one.machine.step(unheard.clone(), one.now);
        assert_eq!(one.waits_for(Timer::Name), [Action::Reclaim], "{phase}");
    }
}

/// It would not see us die.
#[test]
fn a_manager_that_missed_the_renaming_hears_it_again_until_it_has_heard_both_names() {
    let mut one = One::at(Phase::Committing, Automatic);
    let _ = one.on(Event::PredecessorClosed);
    let actions = one.machine.step(Event::PredecessorExited, one.now);
    place(&actions, &Action::Reclaim);
    let unheard = Event::MainNamed {
        who: Who::Me,
        done: false,
    };
    for _ in 0..2 {
        let _ = one.machine.step(unheard.clone(), one.now);
        one.now = one.machine.armed(Timer::Name).expect("it is said again");
        let actions = one.machine.step(Event::Timer(Timer::Name), one.now);
        assert_eq!(actions, [Action::Reclaim]);
    }
    let _ = one.on(named(Who::Me));
    assert_eq!(one.machine.armed(Timer::Name), None);
    let _ = one.machine.step(unheard, one.now);
    assert_eq!(one.waits_for(Timer::Name), [Action::NameMain(Who::Me)]);
}

/// What was told to hurry makes room, also where the next master counts.
#[test]
fn a_drainer_that_was_told_to_hurry_is_not_told_by_the_next_master_again() {
    let mut one = One::at(Phase::Serving, Automatic);
    one.machine.timing.generations = 1;
    joins(&mut one, 7);
    let _ = one.machine.step(
        Event::Order(Order::Upgrade {
            hold: false,
            current: false,
            end_oldest: true,
            supersede: None,
        }),
        one.now,
    );
    let (left, hurried) = one.machine.drainer(7, one.now);
    assert_eq!((left, hurried), (Some(Duration::from_secs(13)), true));
    let mut next = One::at(Phase::Serving, Automatic);
    next.machine.timing.generations = 1;
    next.machine.know_drainer(7, left, hurried, next.now);
    place(
        &next.order(upgrade(Automatic)),
        &Action::Launch {
            back: false,
            next: None,
        },
    );
}

/// The predecessor's application would be started, and the file looked at, for nothing.
#[test]
fn what_there_is_no_room_for_wakes_nobody() {
    let mut one = One::at(Phase::Probation, Automatic);
    one.machine.timing.generations = 1;
    let supersede = |end_oldest| Order::Upgrade {
        hold: false,
        current: false,
        end_oldest,
        supersede: Some(Supersede {
            id: "0".into(),
            hold: false,
            probation_ms: None,
            release: false,
        }),
    };
    assert!(one.machine.gives_back_for(&supersede(false)));
    joins(&mut one, 7);
    assert!(!one.machine.gives_back_for(&supersede(false)));
    assert!(one.machine.gives_back_for(&supersede(true)));
    let back = Order::Rollback { nothing: None };
    assert!(one.machine.gives_back_for(&back));
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
