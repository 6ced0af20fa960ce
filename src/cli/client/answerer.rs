//! Who answers on the control socket. The kernel says it (`SO_PEERCRED`, unix(7)) before a word of
//! the answer is believed: the owner listens on its socket anew when it begins to answer, so the
//! process named is the owner, whoever opened the socket first.
//!
//! This keeps out everybody but the service itself. A worker that somebody else controls is a part
//! of the service and can answer in its place. That is why nothing that an answer says is acted on:
//! no path is written to, and only processes of the service are waited for or signalled.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

use crate::cli::places::Places;
use crate::sys::process::{Other, cgroup_of};

/// The process at the other end.
#[derive(Debug)]
pub(super) struct Answerer {
    /// It, unless it lives in another pid namespace.
    process: Option<Other>,
    uid: u32,
    /// Where systemd put it.
    cgroup: Option<PathBuf>,
}

/// Why an answer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stranger {
    /// Another user's process.
    #[error(
        "process {pid} of uid {uid} answers there, but the service's directory belongs to uid {owner}"
    )]
    Uid { pid: u32, uid: u32, owner: u32 },
    /// Not one of the unit's.
    #[error("process {pid} of uid {uid} answers there, and it is no process of {unit}")]
    Unit { pid: u32, uid: u32, unit: String },
    /// The kernel does not say.
    #[error("it cannot be seen who answers there")]
    Unknown,
}

/// What the kernel says of the other end.
#[derive(Debug)]
pub(super) enum Seen {
    /// The service.
    Service(Answerer),
    /// The process that listened has ended. Another one begins to listen, or nobody does.
    Ended,
}

impl Answerer {
    /// Asks who listened on the socket that this connection was made to. `owner` owns its directory,
    /// `us` is our user.
    pub(super) fn of(
        stream: &UnixStream,
        owner: u32,
        places: &Places,
        us: u32,
    ) -> Result<Seen, Stranger> {
        let cred = stream.peer_cred().map_err(|_| Stranger::Unknown)?;
        let pid = cred.pid().and_then(|pid| u32::try_from(pid).ok());
        let pid = pid.filter(|pid| *pid > 0);
        // Held before it is looked at: from then on the number means this process or nobody.
        let process = match pid.map(Other::open) {
            None => None,
            Some(Ok(Some(process))) => Some(process),
            Some(Ok(None)) => return Ok(Seen::Ended),
            Some(Err(_)) => return Err(Stranger::Unknown),
        };
        let seen = Self {
            cgroup: pid.and_then(cgroup_of),
            process,
            uid: cred.uid(),
        };
        seen.is_the_service(owner, us, Unit::running(places).as_ref())?;
        Ok(Seen::Service(seen))
    }

    /// `unit`: the service's, when systemd runs it.
    fn is_the_service(&self, owner: u32, us: u32, unit: Option<&Unit>) -> Result<(), Stranger> {
        let pid = self.process.as_ref().map_or(0, Other::pid);
        let uid = self.uid;
        // Our own user could change this very program.
        if uid == us && us != 0 {
            return Ok(());
        }
        // Root need not pretend. But a link may have led us to another service of root's.
        if uid != 0 && owner != uid {
            return Err(Stranger::Uid { pid, uid, owner });
        }
        match (unit, &self.cgroup) {
            (Some(unit), Some(cgroup)) if !unit.has(cgroup) => Err(Stranger::Unit {
                pid,
                uid,
                unit: unit.name.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The process, to be signalled.
    pub(super) fn process(&self) -> Option<&Other> {
        self.process.as_ref()
    }

    /// Holds another process of the same service; `None` when it has ended or is no part of it.
    pub(super) fn sibling(&self, pid: u32) -> Option<Other> {
        let held = Other::open(pid).ok().flatten()?;
        let uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
        (uid == self.uid && cgroup_of(pid) == self.cgroup).then_some(held)
    }
}

/// The systemd unit of a service: `<name>.service`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    name: String,
}

impl Unit {
    fn of(service: &str) -> Self {
        Self {
            name: format!("{service}.service"),
        }
    }

    /// The unit that systemd runs this service by; `None` when it does not, or when the service is
    /// another one of that name, somewhere else than where a unit's is.
    pub(super) fn running(places: &Places) -> Option<Self> {
        let unit = Self::of(&places.name);
        (places.is_the_systems() && unit.exists()).then_some(unit)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether a control group is the unit's, or in it.
    pub(super) fn has(&self, cgroup: &Path) -> bool {
        cgroup.iter().any(|part| part == self.name.as_str())
    }

    /// Whether systemd runs it now: it makes a control group for what it runs.
    fn exists(&self) -> bool {
        self.places().any(|dir| dir.is_dir())
    }

    /// Where systemd makes it, in the unified hierarchy and in the older ones. A unit that an
    /// administrator moved to another slice is not found; then its processes are told by their user.
    fn places(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let slice = match self.name.split_once('@') {
            // systemd.unit(5): instances of a template share a slice, "-" is escaped in its name.
            Some((template, _)) => {
                let template = template.replace('-', "\\x2d");
                format!("system.slice/system-{template}.slice")
            }
            None => "system.slice".into(),
        };
        let unit = self.name.clone();
        HIERARCHIES
            .iter()
            .map(move |root| Path::new(root).join(&slice).join(&unit))
    }
}

const HIERARCHIES: [&str; 3] = [
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/systemd",
    "/sys/fs/cgroup/unified",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn answerer(uid: u32, cgroup: &str) -> Answerer {
        Answerer {
            process: None,
            uid,
            cgroup: Some(cgroup.into()),
        }
    }

    #[test]
    fn the_service_is_believed_and_a_stranger_is_not() {
        let unit = Unit::of("web");
        let of_unit = answerer(7, "/system.slice/web.service");
        let session = answerer(7, "/user.slice/user-7.slice/session-1.scope");
        assert_eq!(of_unit.is_the_service(7, 0, Some(&unit)), Ok(()));
        let why = session.is_the_service(7, 0, Some(&unit)).unwrap_err();
        assert_eq!(
            why.to_string(),
            "process 0 of uid 7 answers there, and it is no process of web.service"
        );
        // Nothing that systemd runs: a terminal, a container.
        assert_eq!(session.is_the_service(7, 0, None), Ok(()));
        let why = session.is_the_service(8, 0, None).unwrap_err();
        assert!(why.to_string().contains("belongs to uid 8"), "{why}");
        // Ourselves.
        assert_eq!(session.is_the_service(8, 7, Some(&unit)), Ok(()));
        // Root, but another of its services: the service's user has put a link there.
        let root = answerer(0, "/system.slice/web.service");
        assert_eq!(root.is_the_service(8, 0, Some(&unit)), Ok(()));
        let other = answerer(0, "/system.slice/other.service");
        assert_eq!(other.is_the_service(8, 0, None), Ok(()));
        let why = other.is_the_service(8, 0, Some(&unit)).unwrap_err();
        assert!(
            why.to_string().contains("no process of web.service"),
            "{why}"
        );
    }

    #[test]
    fn a_unit_is_known_by_a_whole_part_of_a_path() {
        let unit = Unit::of("web");
        assert!(unit.has(Path::new("/system.slice/web.service/.control")));
        assert!(!unit.has(Path::new("/system.slice/not-web.service")));
        assert!(!unit.exists());
        let instance: Vec<_> = Unit::of("a-b@c").places().collect();
        assert_eq!(
            instance[0],
            Path::new("/sys/fs/cgroup/system.slice/system-a\\x2db.slice/a-b@c.service")
        );
    }

    #[test]
    fn only_processes_of_the_service_are_its_siblings() {
        let us = std::process::id();
        let here = Answerer {
            process: None,
            uid: nix::unistd::geteuid().as_raw(),
            cgroup: cgroup_of(us),
        };
        assert!(here.sibling(us).is_some());
        assert!(here.sibling(0x7fff_fff0).is_none(), "there is none");
        let another = Answerer {
            uid: here.uid + 1,
            ..here
        };
        assert!(another.sibling(us).is_none());
    }
}
