//! `<name>.pid` names the newest master, `<name>.pid.oldbin` its predecessor while it lives: what
//! nginx's scripts read. Written atomically; never a reason to fail.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The two files of one service.
#[derive(Debug, Clone)]
pub struct PidFiles {
    newest: PathBuf,
    old: PathBuf,
}

impl PidFiles {
    /// In the runtime directory.
    pub fn new(directory: &Path, name: &str) -> Self {
        Self {
            newest: directory.join(format!("{name}.pid")),
            old: directory.join(format!("{name}.pid.oldbin")),
        }
    }

    /// A successor is ready.
    pub fn pair(&self, newest: u32, old: u32) {
        // First the predecessor's: a script that sees the new one must find the old one too.
        write(&self.old, old);
        write(&self.newest, newest);
    }

    /// Only one master is left.
    pub fn alone(&self, pid: u32) {
        write(&self.newest, pid);
        self.forget_old();
    }

    /// The predecessor is gone.
    pub fn forget_old(&self) {
        remove(&self.old);
    }

    /// The service stops: whatever names `pid` goes.
    pub fn forget(&self, pid: u32) {
        for path in [&self.newest, &self.old] {
            if fs::read_to_string(path).is_ok_and(|text| text.trim() == pid.to_string()) {
                remove(path);
            }
        }
    }
}

fn write(path: &Path, pid: u32) {
    if let Err(e) = replace(path, pid) {
        tracing::warn!("cannot write {}: {e}", path.display());
    }
}

fn replace(path: &Path, pid: u32) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let temporary = directory.join(format!(".pid.{}", std::process::id()));
    let mut file = fs::File::create(&temporary)?;
    writeln!(file, "{pid}")?;
    drop(file);
    fs::rename(&temporary, path).inspect_err(|_| remove(&temporary))
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("cannot remove {}: {e}", path.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_name_the_newest_master_and_its_predecessor_while_it_lives() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        let files = PidFiles::new(dir.path(), "web");
        files.alone(7);
        assert_eq!(read("web.pid").as_deref(), Some("7\n"));
        files.pair(8, 7);
        assert_eq!(read("web.pid").as_deref(), Some("8\n"));
        assert_eq!(read("web.pid.oldbin").as_deref(), Some("7\n"));
        files.forget_old();
        assert_eq!(read("web.pid.oldbin"), None);
        files.forget(7);
        assert_eq!(read("web.pid").as_deref(), Some("8\n"));
        files.forget(8);
        assert_eq!(read("web.pid"), None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
