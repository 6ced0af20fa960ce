//! Unit files as systemd finds them on disk (systemd.unit(5)): what an administrator will get at the
//! next start, whatever runs now.

use std::fs;
use std::path::{Path, PathBuf};

/// Where systemd looks for units of the system; the first one counts.
const DIRECTORIES: [&str; 6] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator",
];

/// A unit file with its drop-ins after it, in the order in which they count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitFile(String);

impl UnitFile {
    /// Reads it; `None` when there is none.
    #[must_use]
    pub fn read(unit: &str) -> Option<Self> {
        Self::read_below(unit, &DIRECTORIES.map(Path::new))
    }

    /// The same in other directories.
    #[must_use]
    pub fn read_below(unit: &str, directories: &[&Path]) -> Option<Self> {
        let find = |name: &str| {
            directories
                .iter()
                .find_map(|dir| fs::read_to_string(dir.join(name)).ok())
        };
        // An instance has the file of its template, unless it has one of its own.
        let template = unit
            .split_once('@')
            .map(|(name, _)| format!("{name}@.service"));
        let mut text = find(unit).or_else(|| find(&template?))?;
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
        for path in drop_ins {
            text.push('\n');
            text += &fs::read_to_string(path).unwrap_or_default();
        }
        Some(Self(text))
    }

    /// Every value of a directive, oldest first; an empty one forgets those before it.
    #[must_use]
    pub fn values(&self, key: &str) -> Vec<&str> {
        let mut values = Vec::new();
        for line in self.0.lines() {
            let Some((name, value)) = line.split_once('=') else {
                continue;
            };
            if name.trim() != key {
                continue;
            }
            match value.trim() {
                "" => values.clear(),
                value => values.push(value),
            }
        }
        values
    }

    /// The value that counts of a directive that has one.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.values(key).pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (etc, lib) = (dir.path().join("etc"), dir.path().join("lib"));
        let directories = [etc.as_path(), lib.as_path()];
        assert_eq!(UnitFile::read_below("h.service", &directories), None);
        fs::create_dir_all(etc.join("h.service.d")).unwrap();
        fs::create_dir_all(lib.join("h.service.d")).unwrap();
        let write = |path: PathBuf, text: &str| fs::write(path, text).unwrap();
        write(
            lib.join("h.service"),
            "[Service]\n#User=no\nUser=a\nE=1\nE=2\n",
        );
        let user = || {
            let unit = UnitFile::read_below("h.service", &directories).unwrap();
            unit.value("User").unwrap().to_owned()
        };
        assert_eq!(user(), "a");
        write(lib.join("h.service.d/20-b.conf"), "User=d");
        write(etc.join("h.service.d/10-a.conf"), "User=c");
        assert_eq!(user(), "d");
        // Hidden by one of its name.
        write(etc.join("h.service.d/20-b.conf"), "User = e\nE=\nE=3");
        assert_eq!(user(), "e");
        write(etc.join("h.service.d/30.txt"), "User=f");
        write(etc.join("h.service"), "User=g\nE=0");
        assert_eq!(user(), "e", "drop-ins come last");
        let unit = UnitFile::read_below("h.service", &directories).unwrap();
        assert_eq!(unit.values("E"), ["3"]);
        write(lib.join("t@.service"), "User=t");
        let instance = UnitFile::read_below("t@x.service", &directories).unwrap();
        assert_eq!(instance.value("User"), Some("t"));
    }
}
