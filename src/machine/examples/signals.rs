//! Every cell of the table of signals (handover(1), SIGNALS).

use std::time::Duration;

use super::kit::*;
use crate::machine::event::{Event, FromPredecessor, FromSuccessor, Signal};
use crate::machine::{Action, Note, Phase, Who};

const DRAIN: Option<Duration> = Some(Duration::from_secs(600));
const STOP: Option<Duration> = Some(Duration::from_secs(8));

fn yields_by(signal: &str) -> Action {
    Action::ToPredecessor(FromSuccessor::Yield {
        reason: format!("told to leave by {signal}"),
        retire: true,
        then: None,
    })
}

#[test]
fn usr2_to_one_that_serves_is_an_upgrade_in_which_both_generations_accept() {
    let mut pair = Pair::new();
    pair.signal(OLD, Signal::Usr2);
    assert_eq!(pair.phases(), [Phase::Beside, Phase::Standby]);
    assert_eq!(pair.accepting(), [OLD, NEW]);
    assert_eq!(pair.main, OLD);
    // Nothing more happens by itself.
    pair.advance(Duration::from_secs(3600));
    assert_eq!(pair.phases(), [Phase::Beside, Phase::Standby]);
}

#[test]
fn usr2_to_the_old_one_is_refused_while_the_new_one_lives() {
    for phase in [Phase::Launching, Phase::Beside, Phase::Parked] {
        let mut one = One::at(phase, Hold);
        assert!(refuses(&one.signal(Signal::Usr2), Signal::Usr2), "{phase}");
        assert_eq!(one.phase(), phase);
    }
}

#[test]
fn usr2_to_the_new_one_stops_its_accepting_when_the_old_one_accepts() {
    let mut one = One::at(Phase::Standby, Hold);
    assert_eq!(one.signal(Signal::Usr2), [Action::Quiesce]);
    assert_eq!(one.signal(Signal::Usr2), []);

    // Parked or taking back, the old one does not accept yet.
    for phase in [Phase::Probation, Phase::Yielded] {
        let mut one = One::at(phase, Hold);
        assert_eq!(
            one.signal(Signal::Usr2),
            [Action::Note(Note::SignalRemembered(Signal::Usr2))]
        );
        let actions = one.hears(FromPredecessor::Ready);
        place(&actions, &Action::Quiesce);
    }
}

#[test]
fn winch_to_one_that_serves_is_refused() {
    let mut one = One::at(Phase::Serving, Hold);
    assert!(refuses(&one.signal(Signal::Winch), Signal::Winch));
    assert_eq!(one.phase(), Phase::Serving);
}

#[test]
fn winch_to_the_old_one_drains_parks_and_moves_mainpid() {
    let mut one = One::at(Phase::Beside, Hold);
    let actions = one.signal(Signal::Winch);
    assert_order(
        &actions,
        &[
            Action::NameMain(Who::Successor),
            Action::ToSuccessor(FromPredecessor::Takeover),
            Action::DrainWorkers {
                stop: false,
                limit: DRAIN,
            },
        ],
    );
    assert_eq!(one.phase(), Phase::Parked);
    assert!(refuses(&one.signal(Signal::Winch), Signal::Winch));
}

#[test]
fn winch_to_the_old_one_waits_until_the_new_one_accepts() {
    let mut one = One::at(Phase::Launching, Hold);
    let _ = one.on(Event::Launched(NEW_PID));
    assert_eq!(
        one.signal(Signal::Winch),
        [Action::Note(Note::SignalRemembered(Signal::Winch))]
    );
    let actions = one.told(FromSuccessor::Ready);
    assert_order(
        &actions,
        &[
            Action::Note(Note::SignalCarriedOut(Signal::Winch)),
            Action::NameMain(Who::Successor),
            Action::ToSuccessor(FromPredecessor::Takeover),
        ],
    );
    assert_eq!(one.phase(), Phase::Parked);
}

#[test]
fn winch_to_the_new_one_drains_its_workers_when_the_old_one_accepts() {
    let mut one = One::at(Phase::Standby, Hold);
    assert_eq!(drain(&one.signal(Signal::Winch)), Some((false, DRAIN)));
    assert_eq!(one.phase(), Phase::Standby);

    for phase in [Phase::Probation, Phase::Yielded] {
        let mut one = One::at(phase, Hold);
        assert_eq!(drain(&one.signal(Signal::Winch)), None);
        let actions = one.hears(FromPredecessor::Ready);
        assert_eq!(drain(&actions), Some((false, DRAIN)));
        assert_eq!(one.phase(), Phase::Standby);
    }
}

#[test]
fn hup_to_one_that_serves_reloads() {
    let mut one = One::at(Phase::Serving, Hold);
    place(&one.signal(Signal::Hup), &Action::Reload);
    assert_eq!(one.phase(), Phase::Reloading);
}

#[test]
fn hup_to_the_old_one_takes_back_when_it_is_parked() {
    let mut one = One::at(Phase::Parked, Hold);
    place(&one.signal(Signal::Hup), &Action::StartWorkers);
    assert_eq!(one.phase(), Phase::Reclaiming);
    let actions = one.on(Event::WorkersReady);
    assert_order(
        &actions,
        &[
            Action::Accept,
            Action::NameMain(Who::Me),
            Action::ToSuccessor(FromPredecessor::Ready),
        ],
    );
    assert_eq!(one.phase(), Phase::Beside);
}

#[test]
fn hup_to_the_old_one_is_refused_while_both_accept() {
    for phase in [Phase::Launching, Phase::Beside] {
        let mut one = One::at(phase, Hold);
        assert!(refuses(&one.signal(Signal::Hup), Signal::Hup), "{phase}");
    }
}

#[test]
fn hup_to_the_new_one_reloads_its_configuration() {
    for phase in [Phase::Standby, Phase::Probation] {
        let mut one = One::at(phase, Hold);
        assert_eq!(one.signal(Signal::Hup), [Action::Reload]);
        assert!(refuses(&one.signal(Signal::Hup), Signal::Hup));
        let _ = one.on(Event::Reloaded);
        assert_eq!(one.signal(Signal::Hup), [Action::Reload]);
    }
}

#[test]
fn quit_and_term_to_one_that_serves_stop_the_service() {
    for (signal, limit) in [(Signal::Quit, DRAIN), (Signal::Term, STOP)] {
        let mut one = One::at(Phase::Serving, Hold);
        let actions = one.signal(signal);
        assert_eq!(drain(&actions), Some((true, limit)));
        place(&actions, &Action::NotifyStopping);
        place(&one.on(Event::WorkersGone), &Action::Exit(0));
    }
}

#[test]
fn a_second_term_never_means_force() {
    let mut one = One::at(Phase::Serving, Hold);
    for _ in 0..3 {
        let actions = one.signal(Signal::Term);
        assert_eq!(drain(&actions), Some((true, STOP)));
        assert!(!actions.contains(&Action::KillWorkers));
        assert_eq!(one.phase(), Phase::Draining);
    }
    // After QUIT it brings the deadline nearer.
    let mut one = One::at(Phase::Draining, Hold);
    assert_eq!(one.signal(Signal::Quit), []);
    assert_eq!(drain(&one.signal(Signal::Term)), Some((true, STOP)));
}

#[test]
fn quit_and_term_to_the_old_one_commit() {
    for signal in [Signal::Quit, Signal::Term] {
        for park in [true, false] {
            let mut pair = Pair::new();
            pair.signal(OLD, Signal::Usr2);
            if park {
                pair.signal(OLD, Signal::Winch);
            }
            pair.signal(OLD, signal);
            assert_eq!(pair.phases(), [Phase::Serving]);
            assert_eq!(pair.accepting(), [NEW]);
            assert_eq!(pair.main, NEW);
            assert!(!pair.log.iter().any(|x| x.1 == Action::NotifyStopping));
        }
    }
}

#[test]
fn quit_and_term_to_the_old_one_wait_until_the_new_one_accepts() {
    for signal in [Signal::Quit, Signal::Term] {
        let mut one = One::at(Phase::Launching, Hold);
        let _ = one.on(Event::Launched(NEW_PID));
        assert_eq!(
            one.signal(signal),
            [Action::Note(Note::SignalRemembered(signal))]
        );
        let actions = one.told(FromSuccessor::Ready);
        assert_order(
            &actions,
            &[
                Action::ToSuccessor(FromPredecessor::Takeover),
                Action::ToSuccessor(FromPredecessor::Commit),
            ],
        );
        place(&one.told(FromSuccessor::Commit), &Action::CloseSuccessor);
        assert_eq!(one.phase(), Phase::Draining);
    }
}

#[test]
fn quit_and_term_to_the_new_one_make_it_leave() {
    for signal in [Signal::Quit, Signal::Term] {
        let mut pair = Pair::new();
        pair.signal(OLD, Signal::Usr2);
        pair.signal(NEW, signal);
        assert_eq!(pair.phases(), [Phase::Serving]);
        assert_eq!(pair.accepting(), [OLD]);
    }
}

#[test]
fn quit_and_term_to_the_new_one_yield_first_while_the_old_one_is_parked() {
    for signal in [Signal::Quit, Signal::Term] {
        let mut one = One::at(Phase::Probation, Hold);
        let actions = one.signal(signal);
        place(&actions, &yields_by(&format!("SIG{}", signal.as_str())));
        assert_eq!(drain(&actions), None, "it accepts till the other one does");
        assert_eq!(one.phase(), Phase::Yielded);
        assert!(one.machine.owns());
        assert!(drain(&one.hears(retire())).is_some());
        assert_eq!(one.phase(), Phase::Draining);
    }
    // The old one may say Ready instead of Retire: it leaves all the same.
    let mut one = One::at(Phase::Probation, Hold);
    let _ = one.signal(Signal::Quit);
    let _ = one.hears(FromPredecessor::Ready);
    assert_eq!(one.phase(), Phase::Draining);
}

#[test]
fn int_to_one_that_serves_stops_it_now() {
    let mut one = One::at(Phase::Serving, Hold);
    place(&one.signal(Signal::Int), &Action::KillWorkers);
    place(&one.on(Event::WorkersGone), &Action::Exit(0));
    // Also in the middle of a drain.
    let mut one = One::at(Phase::Draining, Hold);
    assert_eq!(one.signal(Signal::Int), [Action::KillWorkers]);
}

#[test]
fn int_to_the_old_one_makes_it_leave_now_and_the_new_one_serve() {
    for phase in [Phase::Beside, Phase::Parked] {
        let mut pair = Pair::new();
        pair.signal(OLD, Signal::Usr2);
        pair.old().busy = true;
        if phase == Phase::Parked {
            pair.signal(OLD, Signal::Winch);
        }
        assert_eq!(pair.old().phase(), phase);
        pair.signal(OLD, Signal::Int);
        assert_eq!(pair.phases(), [Phase::Serving]);
        assert_eq!(pair.accepting(), [NEW]);
    }
}

#[test]
fn int_to_the_new_one_makes_it_leave_now_and_the_old_one_serve() {
    for park in [false, true] {
        let mut pair = Pair::new();
        pair.signal(OLD, Signal::Usr2);
        if park {
            pair.signal(OLD, Signal::Winch);
        }
        pair.signal(NEW, Signal::Int);
        assert_eq!(pair.phases(), [Phase::Serving]);
        assert_eq!((pair.accepting(), pair.main), (vec![OLD], OLD));
    }
}

#[test]
fn usr1_reopens_log_files_in_every_phase() {
    for (phase, mode) in phases() {
        let actions = One::at(phase, mode).signal(Signal::Usr1);
        if phase == Phase::Done {
            assert_eq!(actions, []);
        } else {
            assert_eq!(actions, [Action::ReopenLogs], "{phase}");
        }
    }
}

#[test]
fn a_signal_to_one_that_starts_reloads_or_leaves_is_refused() {
    for signal in [Signal::Hup, Signal::Usr2, Signal::Winch] {
        for phase in [Phase::Starting, Phase::Reloading, Phase::Committing] {
            let mut one = One::at(phase, Hold);
            assert!(refuses(&one.signal(signal), signal), "{phase}");
        }
    }
    for signal in [Signal::Hup, Signal::Usr2] {
        for phase in [Phase::Evicting, Phase::Draining] {
            let mut one = One::at(phase, Hold);
            assert!(refuses(&one.signal(signal), signal), "{phase}");
        }
    }
}

#[test]
fn quit_while_a_rejected_one_leaves_is_not_the_end_of_the_service() {
    // It was meant as a commit; the new one died the moment before.
    let mut one = One::at(Phase::Evicting, Hold);
    assert!(refuses(&one.signal(Signal::Quit), Signal::Quit));
    assert_eq!(one.phase(), Phase::Evicting);
    // systemd's word is not refused.
    let _ = one.signal(Signal::Term);
    assert_eq!(one.phase(), Phase::Draining);
}
