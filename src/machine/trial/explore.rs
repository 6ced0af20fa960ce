//! Every state of the five files x verb x crash after any step x a file that somebody copies in
//! meanwhile x a full disk, then a reboot.

use std::ops::RangeInclusive;

use super::cases::{BUILDS, Disk, Hand, NO_PROGRAM, Verb, file, perform, states};
use super::{Ended, File, MOST_TRIES, Name, Source, Step, Verdict};

/// One run of a verb: cut off after so many steps, a file copied in before one of them.
#[derive(Debug, Clone, Copy)]
struct Accident {
    crash: usize,
    copied: Option<(usize, char)>,
    room: bool,
}

#[test]
fn whatever_happens_a_good_program_can_be_started_and_no_file_is_lost() {
    let tries = [
        None,
        Some(('a', 1)),
        Some(('a', MOST_TRIES)),
        Some(('b', 2)),
    ];
    let states = states(&tries);
    let verbs = Verb::all();
    let mut runs = 0_u64;
    for disk in &states {
        for verb in &verbs {
            for room in [true, false] {
                let steps = verb.plan(disk).steps.len();
                for crash in 0..=steps {
                    let copies = (0..=crash).flat_map(|at| {
                        let files = BUILDS.into_iter().chain([NO_PROGRAM]);
                        files.map(move |id| Some((at, id)))
                    });
                    for copied in copies.chain([None]) {
                        let accident = Accident {
                            crash,
                            copied,
                            room,
                        };
                        tell(disk, verb, accident);
                        runs += 1;
                    }
                }
            }
        }
    }
    println!(
        "the program on disk: {} states, {} verbs, {runs} runs",
        states.len(),
        verbs.len()
    );
    assert!(states.len() > 2500, "{}", states.len());
}

/// Runs it, then the same verb again, then boots.
fn tell(before: &Disk, verb: &Verb, accident: Accident) {
    let at = || format!("{before:?}\n{verb:?} {accident:?}");
    let proved = proved(before);
    // What a commit is about has proved itself, too.
    let mut good = proved.clone();
    if let Verb::Commit(running) = verb {
        good.push(file(*running));
    }
    let (mut hand, plan) = Hand::begin(before.clone(), verb, accident.room);
    let mut done = 0;
    while done < accident.crash {
        copy_in(&mut hand, done..=done, accident);
        if !hand.take(&plan.steps[done]) {
            break;
        }
        done += 1;
        still_proved(&hand.disk, &good, &at);
        still_there(before, &hand.disk, verb, &at);
    }
    copy_in(&mut hand, done..=accident.crash, accident);
    kept(before, &hand.disk, accident, &at);

    // The same verb again, on a disk with room, finishes the work.
    let (after, verdict) = perform(&hand.disk, verb, true);
    let proved_after = match verb {
        Verb::Commit(running) => vec![file(*running)],
        _ => proved.clone(),
    };
    still_proved(&after, &proved_after, &at);
    kept(before, &after, accident, &at);
    finished(verb, &hand.disk, &after, verdict, &at);
    if *verb != Verb::Start {
        let (again, _) = perform(&after, verb, true);
        assert_eq!(again, after, "not idempotent: {}", at());
    }

    // And a boot, at once after the accident or after that.
    boots(&hand.disk, &proved, &at);
    boots(&after, &proved_after, &at);
}

fn copy_in(hand: &mut Hand, now: RangeInclusive<usize>, accident: Accident) {
    if let Some((_, id)) = accident.copied.filter(|(at, _)| now.contains(at)) {
        hand.intrude(id);
    }
}

/// What can be gone back to, whatever is at the program's path: `.good`, or without one `.old`.
fn proved(disk: &Disk) -> Vec<File<char>> {
    let usable = |file: &&File<char>| file.usable;
    let good = disk.good.as_ref().filter(usable);
    let back = good.or_else(|| disk.old.as_ref().filter(usable));
    back.cloned().into_iter().collect()
}

/// At no instant is there none of it.
fn still_proved(disk: &Disk, proved: &[File<char>], at: &dyn Fn() -> String) {
    let there = [&disk.program, &disk.good, &disk.old];
    let one = |file: &File<char>| there.contains(&&Some(file.clone()));
    assert!(
        proved.is_empty() || proved.iter().any(one),
        "nothing good is left: {disk:?}\n{}",
        at()
    );
}

/// What runs, if it was on disk, still is: a reboot finds it.
fn still_there(before: &Disk, disk: &Disk, verb: &Verb, at: &dyn Fn() -> String) {
    let Verb::Commit(running) = verb else {
        return;
    };
    let running = Some(file(*running));
    let kept = |disk: &Disk| disk.good == running || disk.old == running;
    assert!(
        !kept(before) || kept(disk),
        "what runs is lost: {disk:?}\n{}",
        at()
    );
}

/// What was at the path, and what was copied in meanwhile, is there or set aside.
fn kept(before: &Disk, disk: &Disk, accident: Accident, at: &dyn Fn() -> String) {
    let last = accident
        .copied
        .map_or_else(|| before.program.clone(), |(_, id)| Some(file(id)));
    let names = [&disk.program, &disk.rejected, &disk.good];
    assert!(
        last.is_none() || names.contains(&&last),
        "lost: {last:?} of {disk:?}\n{}",
        at()
    );
}

/// What each verb promises.
fn finished(verb: &Verb, before: &Disk, disk: &Disk, verdict: Verdict, at: &dyn Fn() -> String) {
    match verb {
        Verb::Start => started(disk, at),
        Verb::Ended(_) => {}
        Verb::Commit(running) => {
            let running = Some(file(*running));
            assert_eq!(disk.good, running, "{}", at());
            let superseded = before.good.as_ref().filter(|good| good.usable);
            if superseded.is_some() && before.good != running {
                assert_eq!(disk.old, before.good, "{}", at());
            }
            assert_ne!(disk.rejected, running, "proved, yet rejected: {}", at());
            assert_eq!((disk.shared, disk.tries), (false, None), "{}", at());
        }
        Verb::Reject { failed, .. } => {
            let there = disk.program.as_ref().map(|file| file.id);
            // Where there was nothing, anything good is better.
            let filled = before.program.is_none() && disk.program.is_some();
            let stuck = matches!(verdict, Verdict::NoWayBack | Verdict::Good);
            assert!(
                filled || stuck || there.is_some() && there != *failed,
                "the failed one is still there: {}",
                at()
            );
        }
    }
}

/// After `start` the program is good, or on trial and not yet tried too often, or nothing could
/// take its place.
fn started(disk: &Disk, at: &dyn Fn() -> String) {
    let Some(program) = disk.program.as_ref() else {
        assert_eq!(disk.start().verdict, Verdict::NoWayBack, "{}", at());
        return;
    };
    let good = disk.good.as_ref() == Some(program) && program.usable;
    let old = disk.old.as_ref() == Some(program) && program.usable;
    let counted =
        |(id, number): (char, u32)| id == program.id && (1..=MOST_TRIES).contains(&number);
    let on_trial = program.usable && disk.tries.is_some_and(counted);
    assert!(
        good || old || on_trial || disk.start().verdict == Verdict::NoWayBack,
        "{disk:?}\n{}",
        at()
    );
}

/// Where nothing that is on trial ever starts, what is proved runs after four starts.
fn boots(disk: &Disk, proved: &[File<char>], at: &dyn Fn() -> String) {
    let mut disk = disk.clone();
    for _ in 0..=MOST_TRIES {
        disk = perform(&disk, &Verb::Start, true).0;
        started(&disk, at);
    }
    let runs = disk.program.as_ref();
    let by_itself = disk.start().verdict == Verdict::NoWayBack;
    assert!(
        proved.is_empty()
            || by_itself
            || runs
                .is_some_and(|program| Some(program) == disk.good.as_ref()
                    || Some(program) == disk.old.as_ref()),
        "what is proved is not started: {disk:?}\n{}",
        at()
    );
    assert!(
        proved.is_empty() || runs.is_some_and(|program| program.usable),
        "what cannot start is started: {disk:?}\n{}",
        at()
    );
}

/// A bad release that nobody announced: three tries, then the good one; and the count is its own.
#[test]
fn a_program_on_trial_has_three_tries() {
    let disk = Disk {
        program: Some(file('b')),
        good: Some(file('a')),
        old: None,
        rejected: None,
        tries: Some(('c', 3)),
        shared: false,
    };
    let mut now = disk;
    for number in 1..=3 {
        let (after, verdict) = perform(&now, &Verb::Start, true);
        assert_eq!(verdict, Verdict::OnTrial);
        assert_eq!(after.tries, Some(('b', number)));
        now = after;
    }
    let (after, verdict) = perform(&now, &Verb::Start, true);
    assert_eq!(verdict, Verdict::PutBack);
    assert_eq!(after.program, Some(file('a')));
    assert_eq!((after.rejected, after.tries), (Some(file('b')), None));
}

#[test]
fn one_that_was_told_to_stop_has_not_failed() {
    let disk = Disk {
        program: Some(file('b')),
        good: Some(file('a')),
        old: None,
        rejected: None,
        tries: Some(('b', 2)),
        shared: false,
    };
    let (after, _) = perform(&disk, &Verb::Ended(Ended::AsAsked), true);
    assert_eq!(after.tries, None);
}

#[test]
fn one_that_ended_hopelessly_has_one_try() {
    let disk = Disk {
        program: Some(file('b')),
        good: Some(file('a')),
        old: None,
        rejected: None,
        tries: Some(('b', 1)),
        shared: false,
    };
    let (after, _) = perform(&disk, &Verb::Ended(Ended::Hopeless), true);
    let (after, verdict) = perform(&after, &Verb::Start, true);
    assert_eq!(
        (verdict, after.program),
        (Verdict::PutBack, Some(file('a')))
    );
}

/// A rollback after the commit: what was good once is good again at its takeover, and what was
/// rolled back is rejected. Should it fail after all, the same the other way round.
#[test]
fn a_rollback_after_a_commit_is_a_commit_and_a_rejection() {
    let disk = Disk {
        program: Some(file('b')),
        good: Some(file('b')),
        old: Some(file('a')),
        rejected: None,
        tries: None,
        shared: false,
    };
    let back = |disk: &Disk, to, from| {
        let (disk, _) = perform(disk, &Verb::Commit(to), true);
        let reject = Verb::Reject {
            failed: Some(from),
            running: Some(to),
        };
        perform(&disk, &reject, true).0
    };
    let went = back(&disk, 'a', 'b');
    assert_eq!(went.program, Some(file('a')));
    assert_eq!(went.good, Some(file('a')));
    assert_eq!(went.rejected, Some(file('b')));
    let returned = back(&went, 'b', 'a');
    assert_eq!(returned.program, Some(file('b')));
    assert_eq!(returned.good, Some(file('b')));
    assert_eq!(returned.rejected, Some(file('a')));
}

/// A start of a good program writes nothing: `/usr` may be read-only.
#[test]
fn a_good_program_needs_no_step() {
    let disk = Disk {
        program: Some(file('a')),
        good: Some(file('a')),
        old: Some(file('b')),
        rejected: Some(file('c')),
        tries: None,
        shared: false,
    };
    assert!(disk.start().steps.is_empty());
    assert!(disk.commit(&file('a')).steps.is_empty());
    let shared = Disk {
        shared: true,
        tries: Some(('b', 1)),
        ..disk
    };
    assert_eq!(
        shared.start().steps,
        [Step::MakeGood(Source::Good), Step::Remove(Name::Tries)]
    );
}
