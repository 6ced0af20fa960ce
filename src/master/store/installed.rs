//! What the package manager installed, beside what is on disk, runs and is good.
//!
//! The package's scripts write `PROGRAM.installed` (root's, one line: the package's version, and the
//! program's SHA-256, or "none" when it is known only that it is gone). A program that was refused is no longer on disk then,
//! but the package manager still calls it installed: nothing else says so.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

use super::Store;
use crate::api::{self, Build, Drift};
use crate::machine::trial::Name;

/// A line with a version and a sum is shorter.
const LONGEST: u64 = 1024;

/// What the package's scripts wrote down.
#[derive(Debug, PartialEq, Eq)]
struct Installed {
    version: String,
    content: String,
}

impl Installed {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let (version, content) = (words.next()?, words.next()?);
        let is_sum = content.len() == 64 && content.bytes().all(|b| b.is_ascii_hexdigit());
        let is_content = is_sum || content == "none";
        (is_content && words.next().is_none()).then(|| Self {
            version: version.into(),
            content: content.into(),
        })
    }
}

impl Store {
    /// For `status` and the metrics. `version` is the owner's, `disk` what [`disk`](Self::disk) said.
    #[must_use]
    pub fn drift(&self, version: &str, disk: &api::Disk) -> Drift {
        let running = Build {
            version: Some(version.into()),
            build_id: self.running.build_id().into(),
        };
        let named = |build_id: String| Build {
            version: (build_id == running.build_id).then(|| version.into()),
            build_id,
        };
        let installed = self.installed();
        let good = self.build(Name::Good).map(named);
        let is_other = |place: &&str| match *place {
            "installed" => installed
                .as_ref()
                .is_some_and(|installed| installed.content != self.running_content()),
            "disk" => !disk.matches_running,
            _ => good.as_ref() != Some(&running),
        };
        Drift {
            differ: Drift::PLACES
                .into_iter()
                .filter(is_other)
                .map(str::to_owned)
                .collect(),
            installed: installed.map(|installed| installed.version),
            disk: disk.build_id.clone().map(named),
            good: good.clone(),
            running: running.clone(),
        }
    }

    fn installed(&self) -> Option<Installed> {
        let mut path = self.path.clone().into_os_string();
        path.push(".installed");
        let mut text = String::new();
        // Neither a pipe, which nobody may ever write, nor a way to another file.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .ok()?;
        file.take(LONGEST).read_to_string(&mut text).ok()?;
        Installed::parse(&text)
    }

    /// Read once: what runs does not change, and to read it takes a moment.
    fn running_content(&self) -> &str {
        self.running_content
            .get_or_init(|| self.running.content_hash().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::Installed;

    #[test]
    fn only_a_version_and_a_sum_are_believed() {
        let sum = "0123456789abcdef".repeat(4);
        let whole = Installed::parse(&format!("2.0.0-1 {sum}\n"));
        let expected = Installed {
            version: "2.0.0-1".into(),
            content: sum.clone(),
        };
        assert_eq!(whole, Some(expected));
        assert_eq!(Installed::parse("2.0.0-1 none").unwrap().content, "none");
        for broken in [
            String::new(),
            "2.0.0-1".into(),
            "2.0.0-1 \n".into(),
            format!("2.0.0-1 {}", &sum[1..]),
            format!("2.0.0-1 {sum} more"),
            format!("2.0.0-1 {}", sum.replace('0', "x")),
        ] {
            assert_eq!(Installed::parse(&broken), None, "{broken:?}");
        }
    }
}
