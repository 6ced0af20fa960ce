//! What the stories have in common.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::kit::build;
use crate::kit::client::Target;
use crate::kit::manager::{Message, State, Unit};
pub use crate::kit::queued::Queued;
use crate::kit::service::{Output, Service, Setup};
pub use crate::kit::wait::wait_until;
use handover::api::Phase;

/// The next release.
pub const NEXT: &str = "2.0.0";

pub const SOON: Duration = Duration::from_secs(20);

pub fn next() -> PathBuf {
    build::other_version(NEXT)
}

/// A service that serves under the manager.
pub fn serving(setup: Setup) -> Service {
    serving_as(setup, |unit| unit)
}

/// The same with another unit.
pub fn serving_as(setup: Setup, shape: impl FnOnce(Unit) -> Unit) -> Service {
    // Before anything runs: a build takes its time.
    next();
    let service = setup.start_under_manager(shape);
    service.manager().wait_ready();
    service.wait_owner(1, "serving");
    service
}

/// The next release on disk, and the service upgraded to it: in probation.
pub fn upgrade(service: &Service) -> Output {
    service.replace(&next());
    let output = service.cli(&["upgrade"]);
    output.assert_code(0);
    service.wait_status("the next release in probation", |status| {
        status.version == NEXT && status.phase == Phase::Probation
    });
    output
}

/// Makes it final, and waits until the predecessor is gone and the survivor is no alien any more.
pub fn commit(service: &Service) -> u32 {
    service.cli(&["commit"]).assert_code(0);
    let main = service.wait_phase("serving").owner_pid;
    service.manager().wait_for("the re-claim", |s| {
        (s.main == Some(main) && !s.main_is_alien).then_some(())
    });
    main
}

pub fn rollback(service: &Service) {
    service.cli(&["rollback"]).assert_code(0);
    service.wait_owner(1, "serving");
}

/// `ExecReload=` of the unit: the image of the main process.
pub const APPLY: [&str; 2] = ["/proc/$MAINPID/exe", "apply"];

/// `ExecStop=` of the unit.
pub fn exec_stop(mut unit: Unit) -> Unit {
    unit.exec_stop = vec!["/proc/$MAINPID/exe".into(), "stop".into()];
    unit
}

/// No message was refused, and none was sent by anybody but masters.
#[track_caller]
pub fn assert_manners(service: &Service, masters: &[u32]) {
    assert_eq!(service.manager().refused(), []);
    let others = service.manager().look(|s| {
        let strange = s.messages.iter().filter(|m| !masters.contains(&m.pid));
        strange.map(ToString::to_string).collect::<Vec<_>>()
    });
    assert_eq!(others, [""; 0], "sent by somebody who is no master");
}

/// Where a message stands in the order of arrival.
pub fn position(state: &State, like: impl Fn(&Message) -> bool) -> Option<usize> {
    state.messages.iter().position(like)
}

/// Messages like this.
pub fn messages(service: &Service, like: impl Fn(&Message) -> bool) -> Vec<Message> {
    let manager = service.manager();
    manager.look(|s| s.messages.iter().filter(|m| like(m)).cloned().collect())
}

pub fn tcp(service: &Service, listener: &str) -> std::net::SocketAddr {
    match service.target(listener) {
        Target::Tcp(address) => address,
        Target::Unix(path) => panic!("{} is no TCP address", path.display()),
    }
}

/// A download that was begun and goes on when the test says so.
pub struct Download {
    stream: TcpStream,
    got: usize,
}

const BIG: usize = 24 * 1024 * 1024;

/// A site with something big to download.
pub fn with_site(setup: Setup) -> Setup {
    let dir = std::env::temp_dir().join("handover-kit-site");
    std::fs::create_dir_all(&dir).expect("a site");
    let big = dir.join("big");
    if std::fs::metadata(&big).map_or(0, |m| m.len()) != BIG as u64 {
        let new = dir.join(format!("big-{}", fastrand::u64(..)));
        std::fs::write(&new, vec![b'x'; BIG]).expect("a big file");
        std::fs::rename(&new, &big).expect("its place");
    }
    setup.arg("--root").arg(dir)
}

impl Download {
    pub fn begin(service: &Service) -> Self {
        let mut stream = TcpStream::connect(tcp(service, "http")).expect("a connection");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream
            .write_all(b"GET /big HTTP/1.1\r\nHost: kit.test\r\nConnection: close\r\n\r\n")
            .expect("a request");
        let mut bytes = [0; 4096];
        let got = stream.read(&mut bytes).expect("the beginning of an answer");
        assert!(bytes.starts_with(b"HTTP/1.1 200"), "no big file");
        Self { stream, got }
    }

    /// The rest; true when it was complete.
    pub fn finish(mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok() && self.got + rest.len() > BIG
    }
}
