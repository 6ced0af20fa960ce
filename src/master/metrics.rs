//! `/metrics`: Prometheus text, on the control socket and, without orders, on `[metrics] address`.

use std::fmt::Write;

use super::driver::Driver;
use super::milestone::ended_as;
use crate::api::{Drift, Fates, Handshakes, Last, Outcome};
use crate::config::Identities;
use crate::machine::link::Unanswered;

mod door;

pub(super) use door::{MetricsDoor, MetricsSocket};

/// Prometheus text. Counters begin anew with each generation, but for those of drains.
pub(super) fn text(driver: &Driver) -> String {
    let mut text = Text::default();
    let me = &driver.fixed.me;
    let workers = driver.workers.report();
    let served = driver.workers.served();
    let version = [(&*me.version, 1)];
    text.each("build_info", "gauge", "What runs.", "version", version);
    let open = workers.iter().map(|w| w.connections).sum();
    text.gauge("generation", "The owning generation.", me.generation);
    text.gauge(
        "workers",
        "Worker processes of the owner.",
        workers.len() as u64,
    );
    text.gauge("connections", "Open connections of the owner.", open);
    text.counter(
        "accepted_total",
        "Connections accepted by this generation.",
        served.accepted,
    );
    text.counter(
        "received_total",
        "Connections taken over from other workers by this generation.",
        served.received,
    );
    text.counter(
        "requests_total",
        "Requests answered by this generation.",
        served.requests,
    );
    let drained = driver.all_drained();
    let of_drains = [
        ("passed", drained.passed, "passed on to other workers"),
        ("finished", drained.finished, "that ended by themselves"),
        ("cut", drained.cut, "cut at the deadline"),
    ];
    for (name, value, what) in of_drains {
        let name = format!("{name}_total");
        let help = format!("Connections of draining workers {what}, over all generations.");
        text.counter(&name, &help, value);
    }
    let help = "HTTP/2 connections of draining workers, over all generations.";
    text.fates("http2_drained_total", help, &drained.http2);
    if driver.configured.config.app.is_some() {
        text.unanswered(&served.unanswered);
        text.restarts(driver.applications.restarts());
    }
    if let Some(identities) = &driver.configured.config.tls.identities {
        text.tls(identities, &served.tls.handshakes, &drained.tls);
    }
    text.counter(
        "disagreements_total",
        "Connections that looked idle and were not; must be 0.",
        served.disagreements,
    );
    text.counter(
        "accept_errors_total",
        "Connections that could not be accepted, and listeners that cannot accept.",
        served.accept_errors,
    );
    text.counter(
        "unparsed_total",
        "Requests that got an error and were seen by nobody: their head is no HTTP/1.1.",
        served.unparsed,
    );
    text.gauge(
        "draining_generations",
        "Earlier generations that only drain and were not told to hurry, as [drain] generations counts them.",
        driver.machine.drainers().len() as u64,
    );
    let under_way = driver.story.upgrade().is_some();
    text.gauge(
        "upgrade_under_way",
        "Whether an upgrade is.",
        u64::from(under_way),
    );
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
        let help =
            "Requests of this generation that the application did not answer, by what happened.";
        let values = [
            ("no_answer", all.no_answer),
            ("no_connection", all.no_connection),
            ("timed_out", all.timed_out),
            ("broken_off", all.broken_off),
        ];
        self.each("app_unanswered_total", "counter", help, "reason", values);
    }

    fn restarts(&mut self, all: [(&str, u64); 7]) {
        let help = "How often an instance of this release's application was started again, by why it ended.";
        self.each("app_restarts_total", "counter", help, "reason", all);
    }

    fn tls(&mut self, identities: &Identities, all: &Handshakes, drained: &Fates) {
        let help = "TLS handshakes of this generation, by how they ended.";
        let values = [
            ("full", all.done - all.resumed),
            ("resumed", all.resumed),
            ("closed", all.closed),
            ("timed_out", all.timed_out),
            ("refused_by_client", all.refused_by_client),
            ("bad_client_certificate", all.bad_client_certificate),
            ("nothing_in_common", all.nothing_in_common),
            ("broken", all.broken),
        ];
        self.each("tls_handshakes_total", "counter", help, "result", values);
        let help = "TLS connections of draining workers, over all generations.";
        self.fates("tls_drained_total", help, drained);
        // A file may be named twice, by an entry and by the directory.
        let dates: std::collections::BTreeMap<_, _> = identities
            .list
            .iter()
            .map(|identity| (identity.file.to_string_lossy(), identity.not_after))
            .collect();
        let dates = dates.iter().map(|(file, date)| (&**file, *date));
        let (name, help) = (
            "tls_certificate_expires_seconds",
            "When a certificate expires, as Unix time.",
        );
        self.each(name, "gauge", help, "file", dates);
    }

    fn fates(&mut self, name: &str, help: &str, drained: &Fates) {
        let values = [drained.passed, drained.finished, drained.cut];
        self.results(name, "counter", help, values);
    }

    fn results(&mut self, name: &str, kind: &str, help: &str, values: [u64; 3]) {
        let values = ["passed", "finished", "cut"].into_iter().zip(values);
        self.each(name, kind, help, "result", values);
    }

    fn drift(&mut self, drift: &Drift) {
        let help = "Whether what the package manager installed, the file on disk, or the last proved \
                    build is not what runs.";
        let places = Drift::PLACES.into_iter();
        let differs = places.map(|place| (place, u64::from(drift.is_in(place))));
        self.each("drift", "gauge", help, "of", differs);
    }

    fn last_upgrade(&mut self, last: &Last) {
        let ends = Outcome::ALL
            .into_iter()
            .filter(|one| *one != Outcome::UnderWay);
        let is_it = ends.map(|one| (ended_as(one), u64::from(last.outcome == one)));
        let help = "How the last upgrade ended.";
        self.each("last_upgrade", "gauge", help, "outcome", is_it);
        let c = &last.connections;
        self.results(
            "last_upgrade_connections",
            "gauge",
            "What became of the connections drained for the last upgrade.",
            [c.passed, c.finished, c.cut],
        );
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

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.value(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.value(name, "", value);
    }

    /// One value for each of what `label` may say.
    fn each<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        self.family(name, kind, help);
        for (says, value) in values {
            let says = says
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            self.value(name, &format!("{{{label}=\"{says}\"}}"), value);
        }
    }

    fn value(&mut self, name: &str, labels: &str, value: u64) {
        let _ = writeln!(self.0, "handover_{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let mut text = Text::default();
        text.each("x", "gauge", "help", "a", [("1\"\\\n", 3)]);
        let line = text.0.lines().last();
        assert_eq!(line, Some("handover_x{a=\"1\\\"\\\\\\n\"} 3"));
    }
}
