//! The unit file's revision: what a process is born with (user, sandbox, limits, environment) is that
//! of the revision it was started from, whatever is installed by now.

use crate::api::UnitRev;
use crate::sys::process;
use crate::sys::unit::UnitFile;

/// The environment variable by which the unit file says it.
const VARIABLE: &str = "HANDOVER_UNIT_REV=";

/// What the unit that we run in says now, on disk.
pub(super) fn installed_revision() -> Option<String> {
    let cgroup = process::cgroup_of(std::process::id())?;
    revision(&UnitFile::read(cgroup.file_name()?.to_str()?)?)
}

/// What to tell the operator, if anything.
pub(super) fn restart_due(rev: &UnitRev) -> Option<String> {
    (rev.running != rev.installed).then(|| {
        format!(
            "the service runs with revision {} of its unit file, and revision {} is installed: its \
             sandbox, limits and environment wait for the next restart",
            rev.running, rev.installed
        )
    })
}

fn revision(unit: &UnitFile) -> Option<String> {
    let lines = unit.values("Environment").into_iter();
    lines
        .flat_map(str::split_whitespace)
        .filter_map(|word| word.trim_matches('"').strip_prefix(VARIABLE))
        .next_back()
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_revision_counts() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[Service]\nEnvironment=A=1 \"HANDOVER_UNIT_REV=2\"\n\
                    Environment=HANDOVER_UNIT_REV=3 B=2\n#Environment=HANDOVER_UNIT_REV=9\n";
        std::fs::write(dir.path().join("h.service"), text).unwrap();
        let unit = UnitFile::read_below("h.service", &[dir.path()]).unwrap();
        assert_eq!(revision(&unit).as_deref(), Some("3"));
    }

    #[test]
    fn a_restart_is_due_when_they_differ() {
        let rev = |running: &str, installed: &str| UnitRev {
            running: running.into(),
            installed: installed.into(),
        };
        assert_eq!(restart_due(&rev("1", "1")), None);
        let text = restart_due(&rev("1", "2")).unwrap();
        assert!(text.contains("next restart"), "{text}");
    }
}
