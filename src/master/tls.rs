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
use super::record::api_time;
use crate::api;
use crate::config::{Config, Fault, Identity};
use crate::machine::message::Message;
use crate::machine::tickets::TicketKeys;
use crate::sys::secrets;

impl Driver {
    /// Now and then, and before workers start (`starting`), who must have a ring.
    pub(super) fn look_after_tls(&mut self, starting: bool) {
        let now = SystemTime::now();
        let mut warnings: Vec<String> = due_certificates(&self.config, now).collect();
        let identities = self.config.tls.identities.iter();
        for identities in identities {
            warnings.extend(identities.exposed_keys());
            let told = |fault: &Fault| format!("{}: mend it, then reload", fault.error);
            warnings.extend(identities.faults.iter().map(told));
        }
        for warning in &warnings {
            if !self.tls_warnings.contains(warning) {
                tracing::warn!("{warning}");
            }
        }
        self.tls_warnings = warnings;
        let config = self.reload.as_ref().map_or(&self.config, |r| &r.config);
        if config.tls.identities.is_some() {
            NO_CORE_FILE.call_once(write_no_core_file);
        }
        let wanted = config.tls.identities.is_some() && config.tls.tickets;
        let has_none = self.workers.tickets().newest().is_none();
        let owns = self.machine.owns();
        if !wanted && !has_none && owns && self.reload.is_none() {
            tracing::info!("the keys of TLS tickets are dropped: no session is resumed with them");
            // A predecessor keeps its own: a rollback is to what ran before.
            self.workers.set_tickets(TicketKeys::default());
        }
        if wanted && self.workers.tickets().is_due(now) && (owns || starting && has_none) {
            match secrets::ticket_key(now) {
                Ok(key) => {
                    tracing::debug!("a new key for TLS tickets");
                    self.workers.set_tickets(self.workers.tickets().with(key));
                    if owns {
                        self.share_tickets();
                    }
                }
                Err(e) => tracing::error!("cannot make a key for TLS tickets: {e}"),
            }
        }
    }

    /// The other masters have our ring from now on.
    fn share_tickets(&self) {
        let predecessor = self.predecessor.as_ref().and_then(|p| p.line.as_ref());
        let successor = self.successor.as_ref().and_then(|s| s.line.as_ref());
        for line in [predecessor, successor].into_iter().flatten() {
            match secrets::wrap(self.workers.tickets()) {
                Ok(fd) => line.say(Message::TicketKeys, vec![fd]),
                Err(e) => tracing::warn!("the other master does not get the TLS ticket keys: {e}"),
            }
        }
    }

    /// The owner has made a new key.
    pub(super) fn take_ticket_keys(&mut self, fd: Option<OwnedFd>) {
        if self.machine.owns() {
            // Said before its sender knew that we do.
            return;
        }
        match fd.map(secrets::unwrap::<TicketKeys>) {
            Some(Ok(ring)) => self.workers.set_tickets(ring),
            Some(Err(e)) => tracing::warn!("cannot read the TLS ticket keys: {e}"),
            None => tracing::warn!("the TLS ticket keys did not come with their message"),
        }
    }

    /// For `status`.
    pub(super) fn describe_tls(&self) -> Option<api::Tls> {
        let identities = self.config.tls.identities.as_ref()?;
        let certificate = |identity: &Identity| api::Certificate {
            file: identity.file.clone(),
            names: identity.names.clone(),
            not_after: time(identity.not_after),
        };
        Some(api::Tls {
            certificates: identities.list.iter().map(certificate).collect(),
            handshakes: self.workers.served().tls.handshakes,
        })
    }
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
