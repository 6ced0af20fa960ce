//! What a person reads of a master: `systemctl status`, the steps of an order, its verdict. Pure, so
//! that the sentences can be held by golden files. Each names who it speaks of by version and
//! generation, says what is so now, what comes next and when, and the command that changes it.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::api::{Build, Last, Outcome, Releases};
use crate::config::ConfigError;
use crate::machine::Phase;
use crate::machine::message::Identity;

/// One generation: `2.0.0 (g2)`, or `release 2 (g2)` of a hosted application.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who<'a> {
    /// What its release is called, where the program is not what differs.
    pub(super) release: Option<&'a str>,
    /// Unknown until a successor has said hello.
    pub(super) version: Option<&'a str>,
    pub(super) generation: u64,
}

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.generation;
        match (self.release, self.version) {
            (Some(release), _) => write!(f, "release {release} (g{generation})"),
            (None, Some(version)) => write!(f, "{version} (g{generation})"),
            (None, None) => write!(f, "g{generation}"),
        }
    }
}

impl<'a> From<&'a Identity> for Who<'a> {
    fn from(identity: &'a Identity) -> Self {
        Self {
            release: None,
            version: Some(&identity.version),
            generation: identity.generation,
        }
    }
}

impl<'a> Who<'a> {
    /// Named by its release, as far as a line of text can name it.
    pub(super) fn runs(self, release: Option<&'a Path>) -> Self {
        let name = release.and_then(|path| path.file_name()?.to_str());
        Self {
            release: name.filter(|name| !name.contains(char::is_control)),
            ..self
        }
    }
}

/// What a master knows when it speaks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) me: Who<'a>,
    pub(super) phase: Phase,
    pub(super) predecessor: Option<Who<'a>>,
    /// The one there is, or was last.
    pub(super) successor: Who<'a>,
    /// Signals decide when a probation ends.
    pub(super) hold: bool,
    /// Of the probation, when it ends by itself.
    pub(super) left: Option<Duration>,
    /// Until a program that was started cold has proved itself.
    pub(super) unproved: Option<Duration>,
    /// The whole service stops.
    pub(super) stopping: bool,
}

/// One line: who, what is so, what comes next and when, what changes it. `now` is the time of day.
pub(super) fn status_line(scene: &Scene<'_>, now: jiff::Timestamp) -> String {
    let Scene {
        me,
        phase,
        successor,
        hold,
        left,
        unproved,
        stopping,
        ..
    } = scene;
    let before = match &scene.predecessor {
        Some(predecessor) => predecessor.to_string(),
        None => "its predecessor".into(),
    };
    let clock = |left: &Duration| {
        now.checked_add(*left)
            .map_or_else(|_| "soon".into(), |at| format!("{at:.0}"))
    };
    let rest = match phase {
        Phase::Starting => "starts: its workers get ready".into(),
        Phase::Standby => format!("is ready and waits until {before} hands over"),
        Phase::Probation => match left {
            Some(left) => format!(
                "serves, in probation until {}; then it is final. `rollback` goes back to {before}",
                clock(left)
            ),
            None if *hold => {
                format!("serves until `commit` makes it final; `rollback` goes back to {before}")
            }
            // It is left at once.
            None => "serves, without a probation".into(),
        },
        Phase::Committing => format!("serves and is final when {before} has left"),
        Phase::Yielded => format!("gives the service back and serves until {before} is ready"),
        Phase::Serving => match unproved {
            Some(left) => format!(
                "serves, on trial until {}; then what runs is kept as good",
                clock(left)
            ),
            None => "serves".into(),
        },
        Phase::Reloading => "serves; workers with the new configuration start".into(),
        Phase::Launching => format!("serves; {successor} gets ready"),
        Phase::Beside => format!(
            "and {successor} both serve; `commit` keeps the new one, `rollback` this one (signals: \
             WINCH here, or QUIT to the new one)"
        ),
        Phase::Parked => {
            format!("stays ready to take over again; {successor} serves. `rollback` goes back")
        }
        Phase::Reclaiming => "takes the service back: its workers start again".into(),
        Phase::Evicting => format!("serves again; the rejected {successor} leaves"),
        Phase::Draining if *stopping => "stops: it finishes what it has".into(),
        Phase::Draining => "finishes what it has and leaves".into(),
        Phase::Done if *stopping => "has stopped".into(),
        Phase::Done => "has left".into(),
    };
    format!("{me} {rest}")
}

/// A start has come to its end: nothing serves. Why was said.
pub(super) fn not_started(name: &str, me: Who<'_>) -> String {
    format!("{name} {me} did not start")
}

/// A start has come to its end: what serves, and where.
pub(super) fn started(name: &str, me: Who<'_>, listeners: &[crate::api::Listener]) -> String {
    let places = listeners
        .iter()
        .map(|l| format!("{} ({})", l.address, l.name));
    let (mut places, most) = (places.collect::<Vec<_>>(), 8);
    let more = places.len().saturating_sub(most);
    places.truncate(most);
    if more > 0 {
        places.push(format!("{more} more listeners"));
    }
    format!("{name} {me} serves on {}", places.join(", "))
}

/// An upgrade has taken over.
pub(super) fn took_over(from: Who<'_>, to: Who<'_>, probation: Duration) -> String {
    if probation.is_zero() {
        return format!("{to} serves");
    }
    format!(
        "{to} serves, in probation for {}; then it is final. `rollback` goes back to {from}",
        humantime::format_duration(probation)
    )
}

/// What went wrong, in one line or many, and what is so all the same.
pub(super) fn nevertheless(why: &str, so: &str) -> String {
    let between = if why.contains('\n') { "\n" } else { "; " };
    format!("{why}{between}{so}")
}

/// The generation before is gone, before anything was final. `back`: what the disk has to go back to.
pub(super) fn left_alone(
    me: Who<'_>,
    before: &str,
    back: Option<&Build>,
    probation: Duration,
) -> String {
    let back = match back {
        Some(Build { version, build_id }) => {
            let to = version
                .clone()
                .unwrap_or_else(|| format!("build {build_id}"));
            format!("`rollback` runs {to} from the disk")
        }
        None => "there is nothing on disk to go back to".into(),
    };
    format!(
        "the parked master ({before}) is gone: {me} serves alone and stays on trial until it has served \
         for {} in good health, or `commit`; {back}",
        humantime::format_duration(probation)
    )
}

/// An upgrade to what runs.
pub(super) fn runs_already(version: &str, release: Option<&Path>) -> String {
    match release {
        Some(release) => format!(
            "{version} runs already with {}: they are the program and the release on disk",
            release.display()
        ),
        None => format!("{version} runs already: it is the program on disk"),
    }
}

/// `apply`, and there is nothing where a release should be.
pub(super) fn no_release(why: &ConfigError) -> String {
    format!(
        "{why}\nnothing was changed: what serves goes on (`reload` reads the configuration alone)"
    )
}

/// `apply`, and the program on disk was refused before.
pub(super) fn refused_before(program: &Path) -> String {
    format!(
        "the program on disk was refused before and is {}.rejected now: only the configuration is \
         reloaded (`upgrade --binary {0}.rejected` tries it again)",
        program.display()
    )
}

/// Why an order or a signal is refused that would take a rejected program for a new one.
pub(super) const DISK_BUSY: &str = "the program on disk is still being put right after the last \
                                    upgrade; try again when that is done (root's guard has 20 s)";

/// A pre-flight that never ended is given up with its own words; this one did not even end that way.
pub(super) const NOT_LOOKED_AT: &str =
    "the program on disk could not be looked at: that gave no answer; nothing was changed";

/// A rollback from a generation whose application cannot be gone back from.
pub(super) fn no_way_back(why: &str) -> String {
    format!("the application says that there is no way back: {why}")
}

/// A rollback, and the last upgrade of a hosted application has ended: the program of before is another
/// matter. `None`: that upgrade changed no release.
pub(super) fn release_is_decided(last: &Last) -> Option<String> {
    let releases = last.releases.as_ref()?;
    let from = releases.from.display();
    match last.outcome {
        Outcome::Committed if !releases.differ() => Some(format!(
            "the last upgrade changed what is in {from}, and is over: put back what was there, and `apply`"
        )),
        Outcome::Committed => Some(format!(
            "the last upgrade changed the release, and is over: `deploy {from}` runs the release of before"
        )),
        // Whoever was parked is gone.
        Outcome::UnderWay | Outcome::Interrupted if releases.differ() => Some(format!(
            "the upgrade changed the release, and nobody is parked: `deploy {from}` runs the release of before"
        )),
        Outcome::RolledBack => Some(format!(
            "there is no upgrade to go back from: {}",
            ended_then(last)
        )),
        _ => None,
    }
}

/// The same, and there is a program of before.
pub(super) fn program_of_before(why: &str, program: &Path) -> String {
    let program = program.display();
    format!(
        "{why}\nthe program is another matter: `upgrade --binary {program}` runs the one of before"
    )
}

/// A rollback, and there is neither a predecessor nor a program of before.
pub(super) fn nothing_to_go_back_to(last: Option<&Last>) -> String {
    let last = last.filter(|last| !matches!(last.outcome, Outcome::UnderWay));
    let before = last.map_or_else(String::new, |last| format!("; {}", ended_then(last)));
    format!(
        "there is nothing to go back to: no upgrade is in probation, and no program of before is kept \
         beside the one on disk{before}"
    )
}

/// An upgrade ended: when, and why. In a line.
fn ended_then(last: &Last) -> String {
    let text = ended(last);
    let first = text.lines().next().unwrap_or_default();
    format!("{first} ({})", last.finished_at)
}

/// So many generations drain that no other one may begin to; who they are and what they hold.
pub(super) fn full(most: u64, who: &str) -> String {
    format!(
        "{most} generations are still draining ([drain] generations): {who}; try again when \
         `status` shows fewer, shorten [drain] timeout, or cut what the oldest holds with `upgrade \
         --end-oldest`"
    )
}

/// An upgrade ended, and why.
pub(super) fn ended(last: &Last) -> String {
    let (from, to) = match last.releases.as_ref().and_then(Releases::names) {
        Some(names) => names,
        None => (
            last.from.clone(),
            last.to.clone().unwrap_or_else(|| "the new program".into()),
        ),
    };
    let how = match last.outcome {
        Outcome::Committed => format!("the upgrade from {from} to {to} is committed"),
        Outcome::RolledBack => format!("the upgrade to {to} was rolled back, {from} serves again"),
        Outcome::Failed => format!("the upgrade to {to} failed, {from} serves on"),
        Outcome::Refused => format!("the upgrade to {to} was refused, {from} serves on"),
        Outcome::Interrupted => format!("the upgrade from {from} to {to} was interrupted"),
        Outcome::UnderWay => format!("the upgrade from {from} to {to} is under way"),
    };
    match &last.reason {
        Some(why) => format!("{how}: {why}"),
        None => how,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::super::record::Record;
    use super::*;

    /// Every sentence, in one file, for whoever reads them. `WORDS=write` writes it anew.
    #[test]
    #[expect(clippy::too_many_lines, reason = "a list")]
    fn every_sentence_is_as_it_was_agreed() {
        let now = "2026-11-22T15:00:00Z".parse().unwrap();
        let who = |version, generation| Who {
            release: None,
            version: Some(version),
            generation,
        };
        let one = who("1.0.0", 1);
        let two = who("2.0.0", 2);
        let minute = Some(Duration::from_secs(60));
        let mut said = String::new();
        for phase in Phase::ALL {
            for (hold, left, stopping) in [
                (true, None, false),
                (false, None, false),
                (false, minute, true),
            ] {
                let new = matches!(
                    phase,
                    Phase::Starting
                        | Phase::Standby
                        | Phase::Probation
                        | Phase::Committing
                        | Phase::Yielded
                );
                let scene = Scene {
                    me: if new { two } else { one },
                    phase,
                    predecessor: new.then_some(one),
                    successor: two,
                    hold,
                    left,
                    unproved: left,
                    stopping,
                };
                let line = status_line(&scene, now);
                if !said.contains(&format!("{phase}: {line}\n")) {
                    let _ = writeln!(said, "{phase}: {line}");
                }
            }
        }
        let unknown = Who {
            release: None,
            version: None,
            generation: 2,
        };
        let scene = Scene {
            me: one,
            phase: Phase::Launching,
            predecessor: None,
            successor: unknown,
            hold: false,
            left: None,
            unproved: None,
            stopping: false,
        };
        let _ = writeln!(said, "launching: {}", status_line(&scene, now));
        say_of_releases(&mut said, scene, two);
        let listener = |n: u16| crate::api::Listener {
            name: if n == 0 {
                "http".into()
            } else {
                format!("l{n}")
            },
            address: format!("127.0.0.1:{}", 8080 + n),
            source: "own".into(),
        };
        for count in [1, 11] {
            let listeners: Vec<_> = (0..count).map(listener).collect();
            let _ = writeln!(said, "start: {}", started("handover", one, &listeners));
        }
        let _ = writeln!(said, "start: {}", not_started("handover", one));
        for probation in [Duration::ZERO, Duration::from_secs(60)] {
            let _ = writeln!(said, "upgrade: {}", took_over(one, two, probation));
        }
        for version in [Some("1.0.0".to_owned()), None] {
            let build_id = "0ab1".to_owned();
            let back = Build { version, build_id };
            let text = left_alone(two, "1.0.0", Some(&back), Duration::from_secs(60));
            let _ = writeln!(said, "alone: {text}");
        }
        let text = left_alone(two, "1.0.0", None, Duration::from_secs(60));
        let _ = writeln!(said, "alone: {text}");
        for outcome in [
            Outcome::Interrupted,
            Outcome::Committed,
            Outcome::RolledBack,
            Outcome::Failed,
            Outcome::Refused,
        ] {
            let mut record = Record::new("0".into(), "1.0.0", false, false);
            record.to = Some("2.0.0".into());
            let _ = writeln!(said, "ended: {}", ended(&record.ended(outcome, None)));
        }
        let unknown = Record::new("0".into(), "1.0.0", false, false);
        let unknown = unknown.ended(Outcome::Failed, None);
        let _ = writeln!(said, "ended: {}", ended(&unknown));
        say_of_ways_back(&mut said);
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/words/master.txt");
        if std::env::var_os("WORDS").is_some_and(|w| w == "write") {
            std::fs::write(file, &said).unwrap();
        }
        assert_eq!(said, std::fs::read_to_string(file).unwrap());
    }

    fn say_of_releases(said: &mut String, scene: Scene<'static>, two: Who<'static>) {
        let one = scene.me;
        let now = "2026-11-22T15:00:00Z".parse().unwrap();
        let minute = Some(Duration::from_secs(60));
        let release = |who: Who<'static>, path: &'static str| who.runs(Some(Path::new(path)));
        for (phase, me, successor) in [
            (Phase::Serving, release(one, "/srv/blog/1"), two),
            (Phase::Probation, release(two, "/srv/blog/2"), two),
            (
                Phase::Parked,
                release(one, "/srv/blog/1"),
                release(two, "/srv/blog/2"),
            ),
        ] {
            let hosted = Scene {
                me,
                phase,
                predecessor: Some(release(one, "/srv/blog/1")),
                successor,
                left: minute.filter(|_| phase == Phase::Probation),
                ..scene
            };
            let _ = writeln!(said, "hosted: {}", status_line(&hosted, now));
        }
        // A line is a line.
        let _ = writeln!(said, "hosted: {} serves", release(one, "/srv/a\nb"));
    }

    fn say_of_ways_back(said: &mut String) {
        for why in ["it ended", "it ended; its last lines:\n  oh"] {
            let so = nevertheless(why, "1.0.0 (g1) serves on");
            let _ = writeln!(said, "failed: {so}");
        }
        let then = |outcome, releases| {
            let mut record = Record::new("0".into(), "1.0.0", false, false);
            record.to = Some("2.0.0".into());
            record.releases = releases;
            Last {
                finished_at: "2026-11-22T15:00:00.000Z".into(),
                ..record.ended(
                    outcome,
                    Some("the new master was killed\nby SIGKILL".into()),
                )
            }
        };
        let back = then(Outcome::RolledBack, None);
        for last in [None, Some(&back)] {
            let _ = writeln!(said, "rollback: {}", nothing_to_go_back_to(last));
        }
        let releases = || {
            Some(Releases {
                from: "/srv/blog/1".into(),
                to: "/srv/blog/2".into(),
            })
        };
        let in_place = Some(Releases {
            from: "/srv/blog".into(),
            to: "/srv/blog".into(),
        });
        let decided = release_is_decided(&then(Outcome::Committed, in_place));
        let _ = writeln!(said, "rollback: {}", decided.expect("a release"));
        for outcome in [Outcome::Committed, Outcome::RolledBack] {
            let decided = release_is_decided(&then(outcome, releases()));
            let _ = writeln!(said, "rollback: {}", decided.expect("a release"));
        }
        let program = Path::new("/usr/lib/handover/bin/handover.old");
        let _ = writeln!(said, "rollback: {}", program_of_before("no", program));
        // What failed has changed nothing: what is gone back from is the program.
        assert_eq!(release_is_decided(&then(Outcome::Failed, releases())), None);
        assert_eq!(release_is_decided(&back), None);
    }
}
