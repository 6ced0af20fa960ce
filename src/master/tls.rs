//! What a master does for TLS: it looks at the certificates' dates, and keeps the ring of ticket keys
//! that all workers of all generations share.
//!
//! The owner of the service makes the keys. It gives each new ring to its workers and to the other
//! master, so that a client resumes wherever it comes to, after a rollback too.

use std::os::fd::OwnedFd;
use std::sync::Once;
use std::time::SystemTime;

use nix::sys::resource::{Resource, setrlimit};

use super::driver::Driver;
use super::predecessor::Predecessor;
use super::record::api_time;
use crate::api;
use crate::config::{Config, Fault, Identity};
use crate::machine::message::Message;
use crate::machine::tickets::TicketKeys;
use crate::sys::secrets;

/// What is wrong with certificates, or soon will be.
#[derive(Debug, Default)]
pub(super) struct Tls {
    warnings: Vec<String>,
}

/// When the ring of ticket keys is looked at.
#[derive(Debug, Clone, Copy)]
struct Moment {
    /// This master owns the service.
    owns: bool,
    /// Workers start, which must have a ring.
    starting: bool,
    /// A configuration waits for its workers.
    reloading: bool,
}

impl Tls {
    /// Looks at the certificates that serve. Each thing is said once.
    pub(super) fn look(&mut self, config: &Config) {
        let now = SystemTime::now();
        let mut warnings: Vec<String> = due_certificates(config, now).collect();
        if let Some(identities) = &config.tls.identities {
            warnings.extend(identities.doubts(now));
            let told = |fault: &Fault| format!("{}: mend it, then reload", fault.error);
            warnings.extend(identities.faults.iter().map(told));
        }
        for warning in &warnings {
            if !self.warnings.contains(warning) {
                tracing::warn!("{warning}");
            }
        }
        self.warnings = warnings;
    }

    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl Driver {
    /// Now and then, and before workers start (`starting`), who must have a ring.
    pub(super) fn look_after_tls(&mut self, starting: bool) {
        self.tls.look(&self.configured.config);
        let (next, owns) = (self.configured.next(), self.machine.owns());
        let config = next.as_ref().map_or(&self.configured.config, |(c, _)| c);
        let moment = Moment {
            owns,
            starting,
            reloading: next.is_some(),
        };
        let Some(ring) = next_ring(config, self.workers.tickets(), moment) else {
            return;
        };
        // A predecessor keeps its own when there is none any more: a rollback is to what ran before.
        let shared = owns && ring.newest().is_some();
        self.workers.set_tickets(ring);
        if shared {
            self.share_tickets();
        }
    }

    /// The other masters have our ring from now on.
    fn share_tickets(&self) {
        let wrap = || {
            let fd = secrets::wrap(self.workers.tickets());
            fd.inspect_err(|e| {
                tracing::warn!("the other master does not get the TLS ticket keys: {e}");
            })
        };
        let predecessor = self.predecessor.as_ref().and_then(Predecessor::line);
        for line in self.successor.line().into_iter().chain(predecessor) {
            if let Ok(fd) = wrap() {
                line.say(Message::TicketKeys, vec![fd]);
            }
        }
    }

    /// The owner has made a new key.
    pub(super) fn take_ticket_keys(&mut self, fd: Option<OwnedFd>) {
        // We own the service: it was said before its sender knew that.
        if self.machine.owns() {
            return;
        }
        if let Some(ring) = read_ring(fd) {
            self.workers.set_tickets(ring);
        }
    }
}

/// The ring that the workers shall have from now on, when it is another one. `config` is the newest.
fn next_ring(config: &Config, ring: &TicketKeys, moment: Moment) -> Option<TicketKeys> {
    let Moment {
        owns,
        starting,
        reloading,
    } = moment;
    let speaks = config.tls.identities.is_some();
    if speaks {
        NO_CORE_FILE.call_once(write_no_core_file);
    }
    let (wanted, now) = (speaks && config.tls.tickets, SystemTime::now());
    let has_none = ring.newest().is_none();
    if !wanted && !has_none && owns && !reloading {
        tracing::info!("the keys of TLS tickets are dropped: no session is resumed with them");
        return Some(TicketKeys::default());
    }
    if !wanted || !ring.is_due(now) || !(owns || starting && has_none) {
        return None;
    }
    let key = secrets::ticket_key(now)
        .inspect_err(|e| tracing::error!("cannot make a key for TLS tickets: {e}"));
    tracing::debug!("a new key for TLS tickets");
    Some(ring.with(key.ok()?))
}

/// The ring that came from the other master.
fn read_ring(fd: Option<OwnedFd>) -> Option<TicketKeys> {
    let Some(fd) = fd else {
        tracing::warn!("the TLS ticket keys did not come with their message");
        return None;
    };
    secrets::unwrap::<TicketKeys>(fd)
        .inspect_err(|e| tracing::warn!("cannot read the TLS ticket keys: {e}"))
        .ok()
}

/// For `status`.
pub(super) fn report(config: &Config, handshakes: api::Handshakes) -> Option<api::Tls> {
    let identities = config.tls.identities.as_ref()?;
    let certificate = |identity: &Identity| api::Certificate {
        file: identity.file.clone(),
        names: identity.names.clone(),
        not_after: time(identity.not_after),
    };
    Some(api::Tls {
        certificates: identities.list.iter().map(certificate).collect(),
        handshakes,
    })
}

static NO_CORE_FILE: Once = Once::new();

/// Keys are in this memory, and in that of its successors, who inherit both. The kernel does not look
/// at the limit when it gives a core to a program (core(5)), so such a core holds no memory. (Not
/// dumpable at all, as the workers, a master cannot be: the clients of the unit execute its
/// `/proc/PID/exe`.)
fn write_no_core_file() {
    let limit = setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(std::io::Error::from);
    let filter = std::fs::write("/proc/self/coredump_filter", "0");
    if let Err(e) = limit.and(filter) {
        tracing::warn!("a core file of this process would hold TLS keys: {e}");
    }
}

/// A warning for each certificate that should have been renewed.
fn due_certificates(config: &Config, now: SystemTime) -> impl Iterator<Item = String> {
    let list = config.tls.identities.iter().flat_map(|all| &all.list);
    list.filter(move |identity| identity.is_due(now))
        .map(move |identity| {
            let file = identity.file.display();
            let until = time(identity.not_after);
            match identity.left(now) {
                Some(left) => format!(
                    "the certificate in {file} expires in {} days ({until}): renew it, then reload",
                    left.as_secs() / (24 * 60 * 60)
                ),
                None => format!(
                    "the certificate in {file} is not valid now (it expires {until}): renew it, \
                     then reload"
                ),
            }
        })
}

fn time(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    api_time(jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX))
}
