//! The unit file's revision: what a process is born with (user, sandbox, limits, environment) is that
//! of the revision it was started from, whatever is installed by now.

use std::fs;
use std::path::{Path, PathBuf};

use crate::api::UnitRev;
use crate::sys::process;

/// The environment variable by which the unit file says it.
const VARIABLE: &str = "HANDOVER_UNIT_REV=";

/// Where systemd looks for units of the system, the first counts (systemd.unit(5)).
const DIRECTORIES: [&str; 6] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator",
];

/// What the unit that we run in says now, on disk.
pub(super) fn installed_revision() -> Option<String> {
    let cgroup = process::cgroup_of(std::process::id())?;
    let unit = cgroup.file_name()?.to_str()?.to_owned();
    revision(&unit, &DIRECTORIES.map(Path::new))
}

/// What to tell the operator, if anything.
pub(super) fn restart_due(rev: &UnitRev) -> Option<String> {
    (rev.running != rev.installed).then(|| {
        format!(
            "revision {} of the unit file is installed, revision {} runs: its sandbox, limits and \
             environment wait for the next restart",
            rev.installed, rev.running
        )
    })
}

/// The unit file, then its drop-ins by name; the last word counts.
fn revision(unit: &str, directories: &[&Path]) -> Option<String> {
    let fragment = directories
        .iter()
        .find_map(|dir| fs::read_to_string(dir.join(unit)).ok())?;
    let mut drop_ins: Vec<PathBuf> = Vec::new();
    for directory in directories {
        let Ok(entries) = fs::read_dir(directory.join(format!("{unit}.d"))) else {
            continue;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let conf = path.extension().is_some_and(|e| e == "conf");
            // One of the same name in a directory before hides it.
            let hidden = drop_ins.iter().any(|d| d.file_name() == path.file_name());
            if conf && !hidden {
                drop_ins.push(path);
            }
        }
    }
    drop_ins.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    let drop_ins = drop_ins
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok());
    [fragment]
        .into_iter()
        .chain(drop_ins)
        .filter_map(|text| says(&text))
        .next_back()
}

fn says(text: &str) -> Option<String> {
    let lines = text.lines().filter_map(|l| l.strip_prefix("Environment="));
    let words = lines.flat_map(str::split_whitespace);
    words
        .filter_map(|word| word.trim_matches('"').strip_prefix(VARIABLE))
        .next_back()
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (etc, lib) = (dir.path().join("etc"), dir.path().join("lib"));
        let directories = [etc.as_path(), lib.as_path()];
        assert_eq!(revision("h.service", &directories), None);
        fs::create_dir_all(etc.join("h.service.d")).unwrap();
        fs::create_dir_all(lib.join("h.service.d")).unwrap();
        fs::write(
            lib.join("h.service"),
            "[Service]\n#Environment=HANDOVER_UNIT_REV=9\nEnvironment=A=1 \"HANDOVER_UNIT_REV=2\"\n",
        )
        .unwrap();
        let rev = || revision("h.service", &directories).unwrap();
        assert_eq!(rev(), "2");
        let conf = |dir: &Path, name: &str, rev: &str| {
            let text = format!("[Service]\nEnvironment=HANDOVER_UNIT_REV={rev}\n");
            fs::write(dir.join("h.service.d").join(name), text).unwrap();
        };
        conf(&lib, "20-b.conf", "4");
        conf(&etc, "10-a.conf", "3");
        assert_eq!(rev(), "4");
        // Hidden by one of its name.
        conf(&etc, "20-b.conf", "5");
        assert_eq!(rev(), "5");
        fs::write(
            etc.join("h.service.d/30.txt"),
            "Environment=HANDOVER_UNIT_REV=6",
        )
        .unwrap();
        assert_eq!(rev(), "5");
        fs::write(etc.join("h.service"), "Environment=HANDOVER_UNIT_REV=7").unwrap();
        assert_eq!(rev(), "5", "drop-ins come last");
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
