//! Where a service lives: its runtime directory (socket, pid files) and its state directory
//! (history). Pure functions over an [`Env`]; only [`Places::prepare`], [`Places::trusted`] and
//! [`Places::pid_file`] touch the file system.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::args::Globals;
use super::client::running;

/// What the environment says, read once by `sys/inherited`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env {
    /// First entry of `$RUNTIME_DIRECTORY`.
    pub runtime_directory: Option<PathBuf>,
    /// First entry of `$STATE_DIRECTORY`.
    pub state_directory: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `$XDG_STATE_HOME`.
    pub xdg_state_home: Option<PathBuf>,
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// Our effective user.
    pub uid: u32,
    /// `$NO_COLOR` is set and not empty, or `$TERM` is `dumb`.
    pub plain: bool,
}

/// Where a service lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The service's name.
    pub name: String,
    /// Socket and pid files.
    pub runtime: PathBuf,
    /// History and the previous configuration.
    pub state: PathBuf,
    /// `runtime` is in `/tmp`, where anybody may have been before us.
    shared: bool,
}

impl Places {
    /// Where a service is to live that starts now. `default_name` is the configuration's or the
    /// program's.
    #[must_use]
    pub fn resolve(globals: &Globals, default_name: &str, env: &Env) -> Self {
        Self::find(globals, default_name, env, |_| false)
    }

    /// Where a client finds it: as [`resolve`](Self::resolve), but when there is no socket, the
    /// other places are tried before giving up. An operator in the control group without root, and
    /// a script inside some other unit (with a `$RUNTIME_DIRECTORY` of its own), mean the service
    /// of the system.
    #[must_use]
    pub fn find(
        globals: &Globals,
        default_name: &str,
        env: &Env,
        exists: impl Fn(&Path) -> bool,
    ) -> Self {
        let name = globals.name.as_deref().unwrap_or(default_name);
        let runtimes = match &globals.runtime_dir {
            Some(dir) => vec![absolute(dir)],
            None => runtime_candidates(name, env),
        };
        let runtime = pick(runtimes, |dir| exists(&dir.join(SOCKET)));
        let states = match &globals.state_dir {
            Some(dir) => vec![absolute(dir)],
            None => state_candidates(name, env, &runtime),
        };
        Self {
            name: name.to_owned(),
            shared: globals.runtime_dir.is_none() && runtime == in_tmp(name, env.uid),
            state: pick(states, |dir| exists(&dir.join(HISTORY))),
            runtime,
        }
    }

    /// Whether it is where a unit of the system has it: `/run/<name>`.
    #[must_use]
    pub fn is_the_systems(&self) -> bool {
        self.runtime == Path::new("/run").join(&self.name)
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime.join(SOCKET)
    }

    /// Names the newest master. A directory is one service's, and who names the directory need not
    /// know what the service calls itself in its configuration.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        let named = self.runtime.join(format!("{}.pid", self.name));
        if named.exists() {
            return named;
        }
        let files = fs::read_dir(&self.runtime).into_iter().flatten().flatten();
        let mut pid_files = files
            .map(|file| file.path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "pid"))
            // Somebody else may have put his own there.
            .filter(|path| {
                let parked = path.with_extension("pid.oldbin");
                [path, &parked]
                    .iter()
                    .any(|file| running::master(file).is_some())
            });
        pid_files.next().unwrap_or(named)
    }

    /// Names its predecessor while that lives.
    #[must_use]
    pub fn old_pid_file(&self) -> PathBuf {
        self.pid_file().with_extension("pid.oldbin")
    }

    /// The upgrades there were, one JSON document a line.
    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.state.join(HISTORY)
    }

    /// Makes both directories, for the service. One in `/tmp` is made 0700 and must be ours.
    pub fn prepare(&self, uid: u32) -> Result<(), PlaceError> {
        let make = |dir: &Path, mode| {
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(dir)
                .map_err(|source| PlaceError::Make {
                    dir: dir.to_owned(),
                    source,
                })
        };
        if self.shared {
            // Not recursive: an existing one is looked at, not taken.
            match DirBuilder::new().mode(0o700).create(&self.runtime) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(PlaceError::Make {
                        dir: self.runtime.clone(),
                        source: error,
                    });
                }
                _ => {}
            }
        } else {
            make(&self.runtime, 0o755)?;
        }
        self.trusted(uid)?;
        make(&self.state, 0o755)
    }

    /// Refuses a runtime directory in `/tmp` that somebody else has made or can write to: orders
    /// and pid files in there would be theirs. One that does not exist is fine.
    pub fn trusted(&self, uid: u32) -> Result<(), PlaceError> {
        if !self.shared {
            return Ok(());
        }
        match fs::symlink_metadata(&self.runtime) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(meta)
                if meta.is_dir()
                    && meta.uid() == uid
                    && meta.permissions().mode() & 0o777 == 0o700 =>
            {
                Ok(())
            }
            _ => Err(PlaceError::NotOurs {
                dir: self.runtime.clone(),
                uid,
            }),
        }
    }
}

/// The directories are of no use.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Could not be made.
    #[error(
        "cannot make {dir:?}: {source}: make it, or name another with --runtime-dir and --state-dir"
    )]
    Make {
        /// Which one.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else's.
    #[error(
        "{dir:?} is not a directory that only uid {uid} can use: remove it, or name another with --runtime-dir"
    )]
    NotOurs {
        /// Which one.
        dir: PathBuf,
        /// Us.
        uid: u32,
    },
}

/// A name that cannot name files and units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name is 1 to 64 letters, digits, '.', '_', '-', '@', ':' and begins with a letter or digit"
)]
pub struct BadName;

/// Whether a service may be called so: it becomes part of paths.
pub fn check_name(name: &str) -> Result<(), BadName> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-@:".contains(&b));
    if first && rest && name.len() <= 64 {
        Ok(())
    } else {
        Err(BadName)
    }
}

/// The first is where a service starts; the others are where one may be found.
fn runtime_candidates(name: &str, env: &Env) -> Vec<PathBuf> {
    let system = Path::new("/run").join(name);
    let mut dirs: Vec<PathBuf> = env.runtime_directory.iter().cloned().collect();
    if env.uid != 0 {
        dirs.push(match own(env.xdg_runtime_dir.as_ref()) {
            Some(dir) => dir.join(name),
            None => in_tmp(name, env.uid),
        });
    }
    dirs.push(system);
    dirs
}

fn state_candidates(name: &str, env: &Env, runtime: &Path) -> Vec<PathBuf> {
    let system = Path::new("/var/lib").join(name);
    let mut dirs: Vec<PathBuf> = env.state_directory.iter().cloned().collect();
    if env.uid != 0 {
        let home = own(env.home.as_ref()).map(|home| home.join(".local/state"));
        match own(env.xdg_state_home.as_ref()).cloned().or(home) {
            Some(dir) => dirs.push(dir.join(name)),
            // A user without a home: kept until the next boot rather than not at all.
            None => dirs.push(runtime.join("state")),
        }
    }
    dirs.push(system);
    dirs
}

/// The XDG specification: a relative path is invalid and ignored.
fn own(dir: Option<&PathBuf>) -> Option<&PathBuf> {
    dir.filter(|dir| dir.is_absolute())
}

fn in_tmp(name: &str, uid: u32) -> PathBuf {
    Path::new("/tmp").join(format!("{name}-{uid}"))
}

fn pick(candidates: Vec<PathBuf>, found: impl Fn(&Path) -> bool) -> PathBuf {
    let index = candidates.iter().position(|dir| found(dir)).unwrap_or(0);
    candidates
        .into_iter()
        .nth(index)
        .expect("there is always the system's directory")
}

fn absolute(dir: &Path) -> PathBuf {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())
}

const SOCKET: &str = "control.sock";
const HISTORY: &str = "history.jsonl";

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> Env {
        Env {
            xdg_runtime_dir: Some("/run/user/7".into()),
            home: Some("/home/a".into()),
            uid: 7,
            ..Env::default()
        }
    }

    fn places(globals: &Globals, env: &Env) -> (PathBuf, PathBuf) {
        let places = Places::resolve(globals, "web", env);
        (places.runtime, places.state)
    }

    fn pair(runtime: &str, state: &str) -> (PathBuf, PathBuf) {
        (runtime.into(), state.into())
    }

    #[test]
    fn the_order_is_flag_then_systemd_then_user() {
        let none = Globals::default();
        let root = Env::default();
        assert_eq!(places(&none, &root), pair("/run/web", "/var/lib/web"));

        let mut env = user();
        let home = "/home/a/.local/state/web";
        assert_eq!(places(&none, &env), pair("/run/user/7/web", home));
        env.xdg_state_home = Some("/state".into());
        assert_eq!(places(&none, &env).1, Path::new("/state/web"));

        env.runtime_directory = Some("/run/unit".into());
        env.state_directory = Some("/var/lib/unit".into());
        assert_eq!(places(&none, &env), pair("/run/unit", "/var/lib/unit"));

        let globals = Globals {
            name: Some("blue".into()),
            runtime_dir: Some("/r".into()),
            state_dir: Some("/s".into()),
            config: None,
        };
        assert_eq!(places(&globals, &env), pair("/r", "/s"));
        let found = Places::resolve(&globals, "web", &env);
        assert_eq!(found.socket(), Path::new("/r/control.sock"));
        assert_eq!(found.pid_file(), Path::new("/r/blue.pid"));
        assert_eq!(found.old_pid_file(), Path::new("/r/blue.pid.oldbin"));
        assert_eq!(found.history(), Path::new("/s/history.jsonl"));
    }

    #[test]
    fn without_a_runtime_directory_or_home_there_is_still_tmp() {
        let mut env = user();
        env.xdg_runtime_dir = Some("relative".into());
        env.home = None;
        let none = Globals::default();
        assert_eq!(places(&none, &env), pair("/tmp/web-7", "/tmp/web-7/state"));
        assert!(Places::resolve(&none, "web", &env).shared);
    }

    #[test]
    fn a_relative_directory_is_made_absolute() {
        let globals = Globals {
            runtime_dir: Some("r".into()),
            ..Globals::default()
        };
        let runtime = Places::resolve(&globals, "web", &user()).runtime;
        assert!(
            runtime.is_absolute() && runtime.ends_with("r"),
            "{runtime:?}"
        );
    }

    #[test]
    fn a_client_finds_the_service_of_the_system_when_there_is_none_of_its_own() {
        let none = Globals::default();
        let system = |path: &Path| path == Path::new("/run/web/control.sock");
        let mut env = user();
        env.runtime_directory = Some("/run/other-unit".into());
        let found = Places::find(&none, "web", &env, system);
        assert_eq!(found.runtime, Path::new("/run/web"));
        let own = |path: &Path| system(path) || path == Path::new("/run/user/7/web/control.sock");
        let found = Places::find(&none, "web", &env, own);
        assert_eq!(found.runtime, Path::new("/run/user/7/web"));
        let nothing = Places::find(&none, "web", &env, |_| false);
        assert_eq!(nothing.runtime, Path::new("/run/other-unit"));
        let history = |path: &Path| path == Path::new("/var/lib/web/history.jsonl");
        let found = Places::find(&none, "web", &user(), history);
        assert_eq!(found.state, Path::new("/var/lib/web"));
    }

    #[test]
    fn a_directory_in_tmp_must_be_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let me = nix::unistd::geteuid().as_raw();
        let places = Places {
            name: "web".into(),
            runtime: dir.path().join("web-7"),
            state: dir.path().join("state"),
            shared: true,
        };
        places.trusted(me).unwrap();
        places.prepare(me).unwrap();
        let mode = fs::metadata(&places.runtime).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(places.state.is_dir());
        places.prepare(me).unwrap();

        let somebody_else = places.trusted(me + 1).unwrap_err();
        assert!(somebody_else.to_string().contains("--runtime-dir"));
        fs::set_permissions(&places.runtime, fs::Permissions::from_mode(0o755)).unwrap();
        places.prepare(me).unwrap_err();
        fs::remove_dir(&places.runtime).unwrap();
        std::os::unix::fs::symlink(dir.path(), &places.runtime).unwrap();
        places.prepare(me).unwrap_err();
    }

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for good in ["handover", "web-2", "a.b_c", "getty@tty1"] {
            check_name(good).unwrap();
        }
        for bad in ["", ".", "..", "-x", "a/b", "a b", "a\n", &"x".repeat(65)] {
            check_name(bad).unwrap_err();
        }
    }
}
