//! HTTPS, seen from outside: whole programs, and clients that nobody here wrote. The records
//! themselves are compared with rustls' in `src/worker/tls/tests.rs`.

#[path = "../kit/mod.rs"]
mod kit;

mod admission;
mod certificates;
mod clients;
mod http2;
mod moving;
mod off;
mod serving;

use std::net::SocketAddr;
use std::time::Duration;

use crate::kit::build;
use crate::kit::client::Target;
use crate::kit::service::Service;
use handover::api::Phase;

const LONG: Duration = Duration::from_secs(60);
const PATIENT: &str =
    "workers = 2\n[http]\nkeepalive_timeout = \"10m\"\n[upgrade]\nprobation = \"10m\"\n";

/// `workbench`; all its listeners speak TLS.
fn begin(test: &str) -> Service {
    begin_with(test, true)
}

/// The same, or without TLS.
fn begin_with(test: &str, tls: bool) -> Service {
    // Built before anybody connects: no client has to wait for a compiler.
    build::other_version_of_example("workbench", "2.0.0");
    let setup = Service::setup(test)
        .name("workbench")
        .image(build::other_version_of_example("workbench", "1.0.0"))
        .config(PATIENT);
    let setup = if tls { setup.tls() } else { setup };
    let service = setup.start();
    service.wait_owner(1, "serving");
    service
}

fn server(service: &Service) -> SocketAddr {
    match service.target("http") {
        Target::Tcp(server) => server,
        Target::Unix(path) => panic!("a Unix socket: {}", path.display()),
    }
}

fn upgrade(service: &Service) {
    service.replace(&build::other_version_of_example("workbench", "2.0.0"));
    service.cli(&["upgrade"]).assert_code(0);
    service.wait_phase("probation");
}

fn roll_back(service: &Service) {
    service.cli(&["rollback"]).assert_code(0);
    service.wait_status("the end of the rollback", |s| {
        s.phase == Phase::Serving && s.upgrade.is_none()
    });
}

/// Two numbers of `/metrics`: connections over TLS that were passed on, and that were cut.
fn passed_and_cut(service: &Service) -> (u64, u64) {
    let value = |result: &str| {
        let name = format!("handover_tls_drained_total{{result=\"{result}\"}}");
        metric(service, &name)
    };
    (value("passed"), value("cut"))
}

/// One number of `/metrics`.
fn metric(service: &Service, name: &str) -> u64 {
    let metrics = service.control("/metrics").expect("metrics");
    let metrics = String::from_utf8(metrics).expect("text");
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|value| value.trim().parse().ok())
        .unwrap_or_else(|| panic!("no {name} in\n{metrics}"))
}
