//! Who may give orders: decided by `SO_PEERCRED`, which a client cannot forge (unix(7)).

use std::fmt;

use nix::unistd::{Gid, Group, Uid};
use tokio::net::UnixStream;

/// The process that connected, as the kernel saw it at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its process; 0 when it lives in another pid namespace.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl Peer {
    /// Asks the kernel.
    pub fn of(stream: &UnixStream) -> std::io::Result<Self> {
        let cred = stream.peer_cred()?;
        Ok(Self {
            pid: cred.pid().and_then(|p| p.try_into().ok()).unwrap_or(0),
            uid: cred.uid(),
            gid: cred.gid(),
        })
    }

    /// Whether the process is in `gid`, supplementary groups included.
    ///
    /// Neither nix nor rustix has `SO_PEERGROUPS`, so the list comes from `/proc/PID/status`; it
    /// counts only while that process still has the user and group it connected with, so a
    /// recycled pid of somebody else lends nobody its groups.
    fn in_group(self, gid: u32) -> bool {
        if self.gid == gid {
            return true;
        }
        std::fs::read_to_string(format!("/proc/{}/status", self.pid))
            .is_ok_and(|status| self.groups_in(&status).contains(&gid))
    }

    fn groups_in(self, status: &str) -> Vec<u32> {
        let numbers = |key: &str| -> Vec<u32> {
            status
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .map(|rest| {
                    rest.split_ascii_whitespace()
                        .filter_map(|n| n.parse().ok())
                        .collect()
                })
                .unwrap_or_default()
        };
        // proc(5): real, effective, saved, file system.
        let same =
            numbers("Uid:").get(1) == Some(&self.uid) && numbers("Gid:").get(1) == Some(&self.gid);
        if same { numbers("Groups:") } else { Vec::new() }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} of uid {}", self.pid, self.uid)
    }
}

/// Who may give orders. Everybody who can connect may read.
pub struct Access {
    /// `[control] group`.
    group: Option<Group>,
    /// Ourselves, where there is no systemd.
    same_user: Option<u32>,
    refuse: Box<dyn Fn(u32) -> bool + Send + Sync>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("group", &self.group.as_ref().map(|g| &g.name))
            .field("same_user", &self.same_user)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// `group` is `[control] group` ("": none). `refuse` names the processes that may not order
    /// whoever they are: under systemd, the workers. It is asked once a connection.
    ///
    /// Looks the group up, which may ask a directory server: call it when the configuration is
    /// read, not on the way of a request.
    pub fn new(
        group: &str,
        under_systemd: bool,
        refuse: impl Fn(u32) -> bool + Send + Sync + 'static,
    ) -> Result<Self, AccessError> {
        let group = match group {
            "" => None,
            name => Some(
                Group::from_name(name)
                    .map_err(|source| AccessError::Lookup {
                        name: name.into(),
                        source,
                    })?
                    .ok_or_else(|| AccessError::NoSuchGroup { name: name.into() })?,
            ),
        };
        Ok(Self {
            group,
            same_user: (!under_systemd).then(|| Uid::effective().as_raw()),
            refuse: Box::new(refuse),
        })
    }

    /// The group that may, for the socket's own group and mode.
    #[must_use]
    pub fn group(&self) -> Option<Gid> {
        self.group.as_ref().map(|g| g.gid)
    }

    /// Whether this process may give orders.
    pub fn decide(&self, peer: Peer) -> Result<(), Denied> {
        if (self.refuse)(peer.pid) {
            return Err(Denied::Worker { peer });
        }
        let member = |group: &Group| peer.in_group(group.gid.as_raw());
        if peer.uid == 0
            || self.same_user == Some(peer.uid)
            || self.group.as_ref().is_some_and(member)
        {
            return Ok(());
        }
        Err(Denied::Stranger {
            peer,
            may: self.who_may(),
        })
    }

    fn who_may(&self) -> String {
        let mut who = vec!["root".to_owned()];
        if let Some(uid) = self.same_user {
            who.push(format!("uid {uid}"));
        }
        match &self.group {
            Some(group) => who.push(format!("members of group {}", group.name)),
            None => who.push("members of the group named by [control] group (none is)".into()),
        }
        who.join(", ")
    }
}

/// Why somebody may not give orders.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A worker of this service.
    #[error("{peer} is a worker of this service: workers serve, they give no orders")]
    Worker {
        /// Who asked.
        peer: Peer,
    },
    /// Somebody without the right.
    #[error("{peer} may not give orders; these may: {may}")]
    Stranger {
        /// Who asked.
        peer: Peer,
        /// Who may.
        may: String,
    },
    /// The client did not wait for an answer.
    #[error("orders are carried out for clients that stay to hear the answer")]
    Left,
    /// The request did not come through [`serve`](super::serve).
    #[error("orders are taken on the control socket only")]
    Unknown,
}

/// The configured group is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Nobody knows it.
    #[error(
        "[control] group: there is no group {name:?}: create it (groupadd {name}) or name another"
    )]
    NoSuchGroup {
        /// As configured.
        name: String,
    },
    /// The lookup failed.
    #[error("[control] group: cannot look up {name:?}: {source}")]
    Lookup {
        /// As configured.
        name: String,
        /// Of `getgrnam_r(3)`.
        source: nix::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Peer = Peer {
        pid: 4_000_000,
        uid: 1000,
        gid: 1000,
    };

    fn access(group: Option<u32>, same_user: Option<u32>) -> Access {
        Access {
            group: group.map(|gid| Group {
                name: "ops".into(),
                passwd: std::ffi::CString::default(),
                gid: Gid::from_raw(gid),
                mem: Vec::new(),
            }),
            same_user,
            refuse: Box::new(|pid| pid == 77),
        }
    }

    #[test]
    fn root_the_group_and_without_systemd_the_same_user_may_order() {
        let root = Peer { uid: 0, ..ALICE };
        assert_eq!(access(None, None).decide(root), Ok(()));
        assert_eq!(access(Some(1000), None).decide(ALICE), Ok(()));
        assert_eq!(access(None, Some(1000)).decide(ALICE), Ok(()));
        assert!(access(None, None).decide(ALICE).is_err());
        assert!(access(Some(5), Some(7)).decide(ALICE).is_err());
    }

    #[test]
    fn a_worker_may_not_order_even_as_root() {
        let worker = Peer {
            pid: 77,
            uid: 0,
            gid: 0,
        };
        assert_eq!(
            access(Some(0), Some(0)).decide(worker),
            Err(Denied::Worker { peer: worker })
        );
    }

    #[test]
    fn a_denial_says_who_was_refused_and_who_may() {
        let why = access(Some(5), Some(7)).decide(ALICE).unwrap_err();
        assert_eq!(
            why.to_string(),
            "pid 4000000 of uid 1000 may not give orders; these may: root, uid 7, members of group ops"
        );
    }

    #[test]
    fn supplementary_groups_count_only_for_the_process_that_connected() {
        let status = "Name:\tcurl\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\n\
                      FDSize:\t64\nGroups:\t4 27 1000 \n";
        assert_eq!(ALICE.groups_in(status), [4, 27, 1000]);
        let recycled = status.replace("Uid:\t1000\t1000", "Uid:\t1000\t0");
        assert_eq!(ALICE.groups_in(&recycled), [0_u32; 0]);
    }

    #[test]
    fn our_own_supplementary_groups_are_found() {
        let groups = nix::unistd::getgroups().unwrap();
        let me = Peer {
            pid: std::process::id(),
            uid: Uid::effective().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        };
        assert!(groups.iter().all(|gid| me.in_group(gid.as_raw())));
        assert!(!me.in_group(4_123_456_789));
    }

    #[test]
    fn a_group_nobody_knows_is_an_error_that_says_what_to_do() {
        let error = Access::new("no-such-group", false, |_| false).unwrap_err();
        assert!(
            error.to_string().contains("groupadd no-such-group"),
            "{error}"
        );
    }
}
