//! Who may give orders: decided by `SO_PEERCRED`, which a client cannot forge (unix(7)).
//!
//! A system service's own user may not order: workers have it, and they talk to strangers. The unit's
//! commands (`ExecReload=`, `ExecStop=`) run as root.
//!
//! Elsewhere (a terminal, a container, a user's service manager) the operator is the same user as
//! the workers. There what tells them apart is descent: the service starts workers and whatever they
//! start. This keeps an application's child from ordering by accident or by a request it was fooled
//! with; it is no wall around somebody who runs code of his own as this user.

use std::fmt;
use std::os::fd::AsFd;

use nix::unistd::{Group, Uid};
use tokio::net::UnixStream;

use crate::sys::{kernel, process};

/// The process that connected, as the kernel saw it at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its process; 0 when it lives in another pid namespace.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its groups, the effective one first.
    pub groups: Vec<u32>,
}

impl Peer {
    /// Asks the kernel.
    pub fn of(stream: &UnixStream) -> std::io::Result<Self> {
        let cred = stream.peer_cred()?;
        let mut groups = vec![cred.gid()];
        groups.extend(kernel::peer_groups(stream.as_fd())?);
        Ok(Self {
            pid: cred.pid().and_then(|p| p.try_into().ok()).unwrap_or(0),
            uid: cred.uid(),
            groups,
        })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of uid {}", self.pid, self.uid)
    }
}

/// Who may give orders. Everybody who can connect may read.
pub struct Access {
    /// `[control] group`.
    group: Option<Group>,
    /// Ourselves.
    us: u32,
    /// Whether the operator may be of our user.
    same_user: bool,
    /// Which processes are the service's own; `None`: its processes may order as anybody else.
    ours: Option<Box<dyn Fn(u32) -> bool + Send + Sync>>,
}

impl Access {
    /// `operators` is `[control] group`, if there is one.
    #[must_use]
    pub fn new(operators: Option<Group>) -> Self {
        Self {
            group: operators,
            us: Uid::effective().as_raw(),
            same_user: true,
            ours: None,
        }
    }

    /// The service has a user of its own, who may not order, whatever groups it is in.
    #[must_use]
    pub fn but_not_our_user(mut self) -> Self {
        self.same_user = false;
        self
    }

    /// The service's own processes (masters, workers: `ours` knows them by pid) and what they
    /// started may not order, whoever they are. Asked once a connection.
    #[must_use]
    pub fn but_not(mut self, ours: impl Fn(u32) -> bool + Send + Sync + 'static) -> Self {
        self.ours = Some(Box::new(ours));
        self
    }

    /// Whether this process may give orders.
    pub fn decide(&self, peer: &Peer) -> Result<(), Denied> {
        let descent = self.ours.as_ref().map(|ours| descent(peer.pid, ours));
        if descent == Some(Descent::Ours) {
            return Err(Denied::Worker { peer: peer.clone() });
        }
        let may = if peer.uid == 0 {
            true
        } else if peer.uid == self.us {
            // One that cannot be looked at may have been started by anybody.
            self.same_user && descent != Some(Descent::Unknown)
        } else {
            let group = self.group.as_ref().map(|group| group.gid.as_raw());
            group.is_some_and(|gid| peer.groups.contains(&gid))
        };
        if may {
            return Ok(());
        }
        Err(Denied::Stranger {
            peer: peer.clone(),
            may: self.who_may(),
        })
    }

    fn who_may(&self) -> String {
        let mut who = vec!["root".to_owned()];
        who.extend(self.same_user.then(|| format!("uid {}", self.us)));
        match &self.group {
            Some(group) => who.push(format!("members of group {}", group.name)),
            None => who.push("members of the group named by [control] group (none is)".into()),
        }
        who.join(", ")
    }
}

/// The group with the name of `[control] group` ("": none). This may ask a directory server: it is done
/// when the configuration is read, not when somebody waits for the service.
pub fn operators(name: &str) -> Result<Option<Group>, AccessError> {
    if name.is_empty() {
        return Ok(None);
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(Some(group)),
        Ok(None) => Err(AccessError::NoSuchGroup { name: name.into() }),
        Err(source) => Err(AccessError::Lookup {
            name: name.into(),
            source,
        }),
    }
}

/// Where a process comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Descent {
    Ours,
    Others,
    Unknown,
}

/// Follows the parents. One whose parent has ended belongs to PID 1: with that it is nobody's.
fn descent(pid: u32, ours: impl Fn(u32) -> bool) -> Descent {
    let mut at = pid;
    for _ in 0..DEEPEST {
        if ours(at) {
            return Descent::Ours;
        }
        match process::parent_of(at) {
            Some(parent) if parent > 1 => at = parent,
            None if at == pid => return Descent::Unknown,
            // PID 1; or not to be seen, so another user's: no process of ours has such children.
            Some(_) | None => return Descent::Others,
        }
    }
    Descent::Unknown
}

/// No chain of parents is that long, unless somebody wants it to be.
const DEEPEST: usize = 256;

/// Why somebody may not give orders.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error(
        "{peer} is a worker of this service or was started by one: workers serve, they give no \
         orders"
    )]
    Worker { peer: Peer },
    #[error("{peer} may not give orders; these may: {may}")]
    Stranger { peer: Peer, may: String },
    #[error("orders are carried out for clients that stay to hear the answer")]
    Left,
    #[error("orders are taken on the control socket only")]
    Unknown,
}

/// The configured group is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    #[error(
        "[control] group: there is no group {name:?}: create it (groupadd {name}) or name another"
    )]
    NoSuchGroup { name: String },
    #[error("[control] group: cannot look up {name:?}: {source}")]
    Lookup { name: String, source: nix::Error },
}

#[cfg(test)]
mod tests {
    use nix::unistd::Gid;

    use super::*;

    fn peer(pid: u32, uid: u32) -> Peer {
        Peer {
            pid,
            uid,
            groups: vec![uid, 27],
        }
    }

    fn alice() -> Peer {
        peer(4_000_000, 1000)
    }

    fn access(group: Option<u32>, same_user: u32) -> Access {
        Access {
            group: group.map(|gid| Group {
                name: "ops".into(),
                passwd: std::ffi::CString::default(),
                gid: Gid::from_raw(gid),
                mem: Vec::new(),
            }),
            us: same_user,
            same_user: true,
            ours: None,
        }
    }

    #[test]
    fn root_the_group_and_the_same_user_may_order() {
        let root = peer(4_000_000, 0);
        assert_eq!(access(None, 7).decide(&root), Ok(()));
        for group in [1000, 27] {
            assert_eq!(access(Some(group), 7).decide(&alice()), Ok(()));
        }
        assert_eq!(access(None, 1000).decide(&alice()), Ok(()));
        assert!(access(None, 7).decide(&alice()).is_err());
        assert!(access(Some(5), 7).decide(&alice()).is_err());
        // A system service's own user, in whatever group: a worker has it.
        let system = access(Some(27), 1000).but_not_our_user();
        assert!(system.decide(&alice()).is_err());
        assert_eq!(system.decide(&peer(1, 1001)), Ok(()));
    }

    /// A shell with a child of its own; killed by its group.
    struct ProcessGroup {
        shell: std::process::Child,
        child: u32,
    }

    impl ProcessGroup {
        fn new() -> Self {
            use std::io::BufRead;
            use std::os::unix::process::CommandExt;
            let mut shell = std::process::Command::new("sh")
                .args(["-c", "sleep 1000 & echo $!; wait"])
                .process_group(0)
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            let said = shell.stdout.take().unwrap();
            std::io::BufReader::new(said).read_line(&mut line).unwrap();
            let child = line.trim().parse().unwrap();
            Self { shell, child }
        }
    }

    impl Drop for ProcessGroup {
        fn drop(&mut self) {
            let group = nix::unistd::Pid::from_raw(self.shell.id().try_into().unwrap());
            #[expect(
                clippy::disallowed_methods,
                reason = "a group of our own, whose leader is not reaped yet"
            )]
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            let _ = self.shell.wait();
        }
    }

    #[test]
    fn neither_a_worker_nor_what_it_started_may_order_even_as_root() {
        let group = ProcessGroup::new();
        let worker = group.shell.id();
        let access = access(Some(0), 0).but_not(move |pid| pid == worker);
        for pid in [worker, group.child] {
            let peer = peer(pid, 0);
            assert_eq!(access.decide(&peer), Err(Denied::Worker { peer }));
        }
        // What started the worker is somebody else.
        let parent = peer(std::process::id(), 0);
        assert_eq!(access.decide(&parent), Ok(()));
    }

    #[test]
    fn the_same_user_may_order_when_it_is_seen_not_to_be_a_worker() {
        let group = ProcessGroup::new();
        let sibling = peer(group.child, 1000);
        let worker = std::process::id() + 1_000_000;
        let access = || access(None, 1000).but_not(move |pid| pid == worker);
        assert_eq!(access().decide(&sibling), Ok(()));
        // Gone, or in another pid namespace.
        for pid in [0, 4_100_000] {
            let denied = access().decide(&peer(pid, 1000));
            assert!(matches!(denied, Err(Denied::Stranger { .. })), "{denied:?}");
            assert_eq!(access().decide(&peer(pid, 0)), Ok(()));
        }
    }

    #[test]
    fn a_denial_says_who_was_refused_and_who_may() {
        let why = access(Some(5), 7).decide(&alice()).unwrap_err();
        assert_eq!(
            why.to_string(),
            "process 4000000 of uid 1000 may not give orders; these may: root, uid 7, members of group ops"
        );
    }

    #[tokio::test]
    async fn the_kernel_says_all_groups_of_who_connected() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        assert_eq!(peer.pid, std::process::id());
        assert_eq!(peer.groups[0], nix::unistd::getegid().as_raw());
        let groups = nix::unistd::getgroups().unwrap();
        assert!(groups.iter().all(|gid| peer.groups.contains(&gid.as_raw())));
        assert!(!peer.groups.contains(&4_123_456_789));
    }

    #[test]
    fn a_group_nobody_knows_is_an_error_that_says_what_to_do() {
        let error = operators("no-such-group").err().unwrap();
        assert!(
            error.to_string().contains("groupadd no-such-group"),
            "{error}"
        );
    }
}
