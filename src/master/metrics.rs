//! `/metrics`: Prometheus text, on the control socket and, without orders, on `[metrics] address`.
//!
//! The owner answers. The socket of `[metrics] address` is opened by the first generation and handed
//! over, as the control socket is, so a scrape during an upgrade waits for an instant and is
//! answered by whoever owns the service then. A generation with another address opens its own.

use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::control;
use super::driver::Driver;
use crate::api::{Drift, Fates, Handshakes, Last, Outcome};
use crate::config::{Identities, ListenerConfig};
use crate::machine::link::Unanswered;
use crate::machine::message::ListenerSource;
use crate::sys::listeners::{self, ListenError, Listener, address_matches};
use crate::sys::once::Once;

/// What `[metrics] address` listens on.
#[derive(Debug)]
pub(super) struct MetricsSocket(Listener);

/// The socket, and who answers on it while this master owns the service.
#[derive(Debug)]
pub(super) struct MetricsDoor {
    socket: Option<MetricsSocket>,
    handle: control::Handle,
    open: Option<Answering>,
    refused: Once,
}

#[derive(Debug)]
struct Answering(JoinHandle<()>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is said of it.
const CANNOT: &str = "cannot answer on [metrics] address";
/// A scrape that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Out of descriptors, or the like.
const PAUSE: Duration = Duration::from_millis(100);
/// Scrapes at a time.
const MOST: usize = 16;

impl MetricsSocket {
    /// Opens it, or takes the inherited one if it listens there. `None`: no address, no socket.
    pub(super) fn open(
        address: &str,
        inherited: Option<OwnedFd>,
    ) -> Result<Option<Self>, ListenError> {
        if address.is_empty() {
            return Ok(None);
        }
        let source = ListenerSource::Own;
        let inherited = inherited
            .and_then(|fd| Listener::from_fd("metrics".into(), source, None, fd).ok())
            .filter(|listener| address_matches(listener, address));
        if let Some(listener) = inherited {
            return Ok(Some(Self(listener)));
        }
        let config = ListenerConfig::new("metrics", Some(address));
        listeners::bind(&config).map(|listener| Some(Self(listener)))
    }

    /// A copy, for a successor.
    pub(super) fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.try_clone().map(Listener::into_fd)
    }
}

impl MetricsDoor {
    pub(super) fn new(socket: Option<MetricsSocket>, handle: control::Handle) -> Self {
        Self {
            socket,
            handle,
            open: None,
            refused: Once::default(),
        }
    }

    /// What a configuration with this address listens on.
    pub(super) fn socket_for(&self, address: &str) -> Result<Option<MetricsSocket>, ListenError> {
        let ours = self.socket.as_ref().and_then(|m| m.try_clone().ok());
        MetricsSocket::open(address, ours)
    }

    /// A copy, for a successor.
    pub(super) fn copy(&self) -> io::Result<Option<OwnedFd>> {
        self.socket
            .as_ref()
            .map(MetricsSocket::try_clone)
            .transpose()
    }

    /// A new configuration counts.
    pub(super) fn change(&mut self, socket: Option<MetricsSocket>) {
        self.open = None;
        self.socket = socket;
    }

    /// Answers on the socket while this master owns the service.
    pub(super) fn follow(&mut self, owns: bool) {
        if !owns {
            self.open = None;
            return;
        }
        let (Some(socket), None) = (&self.socket, &self.open) else {
            return;
        };
        let router = control::metrics_router(self.handle.clone());
        match Accepting::new(socket) {
            Ok(accepting) => self.open = Some(Answering(tokio::spawn(serve(accepting, router)))),
            Err(e) if self.refused.again() => tracing::error!("{CANNOT}: {e}; it is tried again"),
            Err(_) => {}
        }
    }
}

/// Prometheus text. Counters begin anew with each generation, but for those of drains.
pub(super) fn text(driver: &Driver) -> String {
    let mut text = Text::default();
    let me = &driver.fixed.me;
    let workers = driver.workers.report();
    let served = driver.workers.served();
    text.family("build_info", "gauge", "What runs.");
    text.value("build_info", &[("version", &me.version)], 1);
    text.family("generation", "gauge", "The owning generation.");
    text.value("generation", &[], me.generation);
    text.family("workers", "gauge", "Worker processes of the owner.");
    text.value("workers", &[], workers.len() as u64);
    text.family("connections", "gauge", "Open connections of the owner.");
    let open = workers.iter().map(|w| w.connections).sum();
    text.value("connections", &[], open);
    text.family(
        "accepted_total",
        "counter",
        "Connections accepted by this generation.",
    );
    text.value("accepted_total", &[], served.accepted);
    text.family(
        "received_total",
        "counter",
        "Connections taken over from other workers by this generation.",
    );
    text.value("received_total", &[], served.received);
    text.family(
        "requests_total",
        "counter",
        "Requests answered by this generation.",
    );
    text.value("requests_total", &[], served.requests);
    let drained = driver.all_drained();
    let of_drains = [
        ("passed", drained.passed, "passed on to other workers"),
        ("finished", drained.finished, "that ended by themselves"),
        ("cut", drained.cut, "cut at the deadline"),
    ];
    for (name, value, what) in of_drains {
        let name = format!("{name}_total");
        let help = format!("Connections of draining workers {what}, over all generations.");
        text.family(&name, "counter", &help);
        text.value(&name, &[], value);
    }
    text.http2(&drained.http2);
    if driver.configured.config.app.is_some() {
        text.unanswered(&served.unanswered);
    }
    if let Some(identities) = &driver.configured.config.tls.identities {
        text.tls(identities, &served.tls.handshakes, &drained.tls);
    }
    text.family(
        "disagreements_total",
        "counter",
        "Connections that looked idle and were not; must be 0.",
    );
    text.value("disagreements_total", &[], driver.workers.disagreements());
    text.family(
        "accept_errors_total",
        "counter",
        "Connections that could not be accepted, and listeners that cannot accept.",
    );
    text.value("accept_errors_total", &[], driver.workers.accept_errors());
    text.family(
        "draining_generations",
        "gauge",
        "Earlier generations that only drain.",
    );
    text.value(
        "draining_generations",
        &[],
        driver.drainers.still_draining() as u64,
    );
    text.family("upgrade_under_way", "gauge", "Whether an upgrade is.");
    let under_way = driver.story.upgrade().is_some();
    text.value("upgrade_under_way", &[], u64::from(under_way));
    text.drift(
        &driver
            .disk
            .store
            .drift(&me.version, &driver.disk.store.disk()),
    );
    if let Some(last) = driver.story.last() {
        text.last_upgrade(last);
    }
    text.0
}

impl Text {
    fn unanswered(&mut self, all: &Unanswered) {
        let name = "app_unanswered_total";
        let help = "Requests of this generation that the application did not answer, by what the client got.";
        self.family(name, "counter", help);
        for (status, reason, value) in [
            ("502", "no_answer", all.no_answer),
            ("503", "no_connection", all.no_connection),
            ("504", "timed_out", all.timed_out),
            ("", "broken_off", all.broken_off),
        ] {
            self.value(name, &[("status", status), ("reason", reason)], value);
        }
    }

    fn tls(&mut self, identities: &Identities, all: &Handshakes, drained: &Fates) {
        self.family(
            "tls_handshakes_total",
            "counter",
            "TLS handshakes of this generation, by how they ended.",
        );
        for (result, value) in [
            ("full", all.done - all.resumed),
            ("resumed", all.resumed),
            ("closed", all.closed),
            ("timed_out", all.timed_out),
            ("refused_by_client", all.refused_by_client),
            ("bad_client_certificate", all.bad_client_certificate),
            ("nothing_in_common", all.nothing_in_common),
            ("broken", all.broken),
        ] {
            self.value("tls_handshakes_total", &[("result", result)], value);
        }
        let help = "TLS connections of draining workers, over all generations.";
        self.fates("tls_drained_total", help, drained);
        let expires = "tls_certificate_expires_seconds";
        self.family(
            expires,
            "gauge",
            "When a certificate expires, as Unix time.",
        );
        // A file may be named twice, by an entry and by the directory.
        let dates: std::collections::BTreeMap<_, _> = identities
            .list
            .iter()
            .map(|identity| (&identity.file, identity.not_after))
            .collect();
        for (file, date) in dates {
            self.value(expires, &[("file", &*file.to_string_lossy())], date);
        }
    }

    fn http2(&mut self, drained: &Fates) {
        let help = "HTTP/2 connections of draining workers, over all generations.";
        self.fates("http2_drained_total", help, drained);
    }

    fn fates(&mut self, name: &str, help: &str, drained: &Fates) {
        self.family(name, "counter", help);
        for (result, value) in [
            ("passed", drained.passed),
            ("finished", drained.finished),
            ("cut", drained.cut),
        ] {
            self.value(name, &[("result", result)], value);
        }
    }

    fn drift(&mut self, drift: &Drift) {
        self.family(
            "drift",
            "gauge",
            "Whether what the package manager installed, the file on disk, or the last proved build \
             is not what runs.",
        );
        for place in Drift::PLACES {
            let differs = u64::from(drift.is_in(place));
            self.value("drift", &[("of", place)], differs);
        }
    }

    fn last_upgrade(&mut self, last: &Last) {
        let text = self;
        text.family("last_upgrade", "gauge", "How the last upgrade ended.");
        for outcome in [
            Outcome::Committed,
            Outcome::RolledBack,
            Outcome::Failed,
            Outcome::Refused,
            Outcome::Interrupted,
        ] {
            let is = u64::from(last.outcome == outcome);
            let label = [("outcome", super::milestone::ended_as(outcome))];
            text.value("last_upgrade", &label, is);
        }
        text.family(
            "last_upgrade_connections",
            "gauge",
            "What became of the connections drained for the last upgrade.",
        );
        let c = &last.connections;
        for (result, value) in [
            ("passed", c.passed),
            ("finished", c.finished),
            ("cut", c.cut),
        ] {
            text.value("last_upgrade_connections", &[("result", result)], value);
        }
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(
            self.0,
            "# HELP handover_{name} {help}\n# TYPE handover_{name} {kind}"
        );
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let _ = write!(self.0, "handover_{name}");
        for (n, (label, says)) in labels.iter().enumerate() {
            let open = if n == 0 { '{' } else { ',' };
            let says = says
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.0, "{open}{label}=\"{says}\"");
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Accepting {
    fn new(socket: &MetricsSocket) -> io::Result<Self> {
        let fd = socket.try_clone()?;
        let unix =
            rustix::net::sockopt::socket_domain(fd.as_fd())? == rustix::net::AddressFamily::UNIX;
        Ok(if unix {
            Self::Unix(UnixListener::from_std(fd.into())?)
        } else {
            Self::Tcp(TcpListener::from_std(fd.into())?)
        })
    }
}

async fn serve(accepting: Accepting, router: Router) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(MOST));
    let mut refused = Once::default();
    loop {
        let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let router = router.clone();
        // What is accepted is answered, whoever owns the service by then.
        let accepted = match &accepting {
            Accepting::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(async move {
                    scrape(stream, router).await;
                    drop(place);
                })
            }),
            Accepting::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(async move {
                    scrape(stream, router).await;
                    drop(place);
                })
            }),
        };
        match accepted {
            Ok(_) => refused.over(CANNOT),
            Err(e) => {
                if refused.again() {
                    tracing::warn!("{CANNOT}: {e}; it is tried again");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// One request: the next one may have to go to another master.
async fn scrape(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let _ = timeout(PATIENCE * 2, connection).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let mut text = Text::default();
        text.value("x", &[("a", "1\"\\\n"), ("b", "2")], 3);
        assert_eq!(text.0, "handover_x{a=\"1\\\"\\\\\\n\",b=\"2\"} 3\n");
    }

    #[tokio::test]
    async fn an_inherited_socket_is_used_while_the_address_stays() {
        let first = MetricsSocket::open("127.0.0.1:0", None).unwrap().unwrap();
        let address = first.0.address().to_string();
        let kept = MetricsSocket::open(&address, first.try_clone().ok()).unwrap();
        assert_eq!(kept.unwrap().0.inode(), first.0.inode());
        let other = MetricsSocket::open("127.0.0.2:0", first.try_clone().ok()).unwrap();
        assert_ne!(other.unwrap().0.inode(), first.0.inode());
        assert!(
            MetricsSocket::open("", first.try_clone().ok())
                .unwrap()
                .is_none()
        );
        let taken = MetricsSocket::open(&address, None);
        assert!(taken.unwrap_err().to_string().contains(&address));
    }
}
