//! nginx's upgrade on the fly, as its documentation walks through it, with two real builds of the
//! program and strict clients who notice nothing. After each step: what `ps`, `status --json` and
//! the pid files say, and which version answers.

mod kit;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use kit::build;
use kit::client::{Kind, Load, Report, Running, Spec};
use kit::service::{SOON, Service, install};

/// A service of version 1.0.0 under load; version 2.0.0 lies in `new/`.
struct Walk {
    service: Service,
    load: Running,
    program: &'static str,
    _site: Option<tempfile::TempDir>,
}

impl Walk {
    /// `handover` itself, with a site.
    fn with_the_daemon(test: &str) -> Self {
        let site = tempfile::tempdir().expect("a directory for the site");
        let page = kit::app::pattern(2_000);
        let large = kit::app::pattern(300_000);
        fs::write(site.path().join("index.html"), &page).expect("a page");
        fs::write(site.path().join("large"), &large).expect("a large file");
        let root = site.path().display();
        let old = build::other_version("1.0.0");
        let new = build::other_version("2.0.0");
        let service = Service::setup(test)
            .image(old)
            .config(&format!("workers = 2\n[site]\nroot = \"{root}\""))
            .start();
        let http = || service.load("http").body(page.clone()).pause(PAUSE);
        let loads = vec![
            http().fresh().connections(4),
            http().keep_alive().connections(4),
            http().pipelined(4).connections(2),
            service
                .load("http")
                .path("/large")
                .body(large)
                .slow_reader(16 * 1024, Duration::from_millis(20))
                .connections(3),
        ];
        Self::begin(service, "handover", &new, loads, Some(site))
    }

    /// An application that takes uploads and streams its answers.
    fn with_an_application(test: &str) -> Self {
        let old = build::other_version_of_example("workbench", "1.0.0");
        let new = build::other_version_of_example("workbench", "2.0.0");
        let service = Service::setup(test).name("workbench").image(old).start();
        let app = || service.load("http").app().pause(PAUSE);
        let gap = Duration::from_millis(30);
        let loads = vec![
            app().fresh().connections(3),
            app().fresh().path("/slow?ms=150").connections(2),
            app().pipelined(5).connections(2),
            app().path("/echo").slow_upload(40_000, 10, gap).connections(2),
            app().path("/echo").chunked_upload(40_000, 10, gap).connections(2),
            app()
                .path("/stream?chunks=10&size=3000&ms=30")
                .label("chunked answer")
                .connections(2),
            app()
                .path("/big?bytes=300000")
                .slow_reader(16 * 1024, Duration::from_millis(20))
                .connections(2),
        ];
        Self::begin(service, "workbench", &new, loads, None)
    }

    fn begin(
        service: Service,
        program: &'static str,
        new: &std::path::Path,
        loads: Vec<Spec>,
        site: Option<tempfile::TempDir>,
    ) -> Self {
        let dir = service.program.with_file_name("new");
        fs::create_dir(&dir).expect("a directory for the new version");
        install(new, &dir.join(program));
        service.wait_phase("serving");
        let load = Load::start_all(loads);
        load.wait_answers(20, SOON);
        let walk = Self {
            service,
            load,
            program,
            _site: site,
        };
        walk.sees(&[ALONE]);
        walk.only_answers_come_from(&["1.0.0"]);
        walk
    }

    /// Types a line of the walkthrough. `$old` and `$new` are the masters g1 and g2.
    #[track_caller]
    fn types(&self, line: &str) {
        self.load.mark(line);
        let mut variables = String::new();
        for (name, generation) in [("old", 1), ("new", 2)] {
            let master = self
                .service
                .masters()
                .into_iter()
                .find(|m| m.role() == kit::proc::Role::Master(generation));
            if let Some(master) = master {
                variables.push_str(&format!("{name}={}\n", master.pid));
            }
        }
        let line = line.replace("handover", self.program);
        self.service.shell(&format!("{variables}{line}"));
    }

    /// Waits for this picture, and that it stays under some load.
    #[track_caller]
    fn sees(&self, picture: &[&str]) {
        self.service.wait_picture(picture);
        self.load.wait_answers(10, SOON);
        assert_eq!(self.service.picture(), picture);
        let keeper = kit::proc::Process::look(self.service.keeper()).expect("the keeper");
        assert_eq!(keeper.comm, "keeper");
        assert_eq!(self.service.exited(), None);
    }

    /// Asks on new connections: who accepts now?
    #[track_caller]
    fn only_answers_come_from(&self, versions: &[&str]) {
        let asked = Load::start(self.service.load("http").fresh().connections(2).pause(PAUSE));
        for version in versions {
            asked.wait_server(&self.server(version), 5, SOON);
        }
        let report = asked.stop();
        report.assert_clean();
        let answered: BTreeSet<String> = report.servers.keys().cloned().collect();
        let expected = versions.iter().map(|v| self.server(v)).collect();
        assert_eq!(answered, expected, "{report}");
    }

    fn server(&self, version: &str) -> String {
        format!("{}/{version}", self.program)
    }

    /// No request failed, nobody was refused, and no connection ended unannounced.
    #[track_caller]
    fn ends_well(self) -> Report {
        let report = self.load.stop();
        report.assert_clean();
        assert_eq!(report.count(Kind::Refused), 0);
        println!("{report}");
        report
    }

    /// What was committed is what is on disk, and nothing is left behind.
    #[track_caller]
    fn on_disk(&self, version: &str, files: &[&str]) {
        let status = self.service.wait_status("the file on disk to be what runs", |s| {
            s.disk.matches_running && s.upgrade.is_none()
        });
        assert_eq!(status.version, version);
        assert_eq!(status.warnings, Vec::<String>::new());
        let files: Vec<String> = files
            .iter()
            .map(|f| f.replace("handover", self.program))
            .collect();
        assert_eq!(self.service.bin_files(), files);
    }

    /// How the last upgrade ended, and nobody is left but generation `g`.
    #[track_caller]
    fn concluded(&self, outcome: handover::api::Outcome) {
        let status = self.service.status().expect("an owner");
        let last = status.last.expect("an upgrade");
        assert_eq!((last.from.as_str(), last.to.as_deref()), ("1.0.0", Some("2.0.0")));
        assert_eq!(last.outcome, outcome, "{last:?}");
    }
}

/// Between two requests of a client: the machine has others to serve.
const PAUSE: Duration = Duration::from_millis(4);

const ALONE: &str = "g1 1.0.0 serving: 2 accepting, owner, pid";
const BESIDE: [&str; 2] = [
    "g1 1.0.0 beside: 2 accepting, owner, pid.oldbin",
    "g2 2.0.0 standby: 2 accepting, pid",
];
const PARKED: [&str; 2] = [
    "g1 1.0.0 parked: no workers, pid.oldbin",
    "g2 2.0.0 probation: 2 accepting, owner, pid",
];
const COMMITTED: &str = "g2 2.0.0 serving: 2 accepting, owner, pid";

use handover::api::Outcome::{Committed, RolledBack};

fn forward(walk: &Walk) {
    walk.types("cp handover handover.old; cp -f new/handover handover");
    walk.sees(&[ALONE]);
    walk.types("kill -USR2 $old");
    walk.sees(&BESIDE);
    walk.only_answers_come_from(&["1.0.0", "2.0.0"]);
    walk.types("kill -WINCH $old");
    walk.sees(&PARKED);
    walk.only_answers_come_from(&["2.0.0"]);
}

fn commit(walk: &Walk) {
    walk.types("kill -QUIT $old");
    walk.sees(&[COMMITTED]);
    walk.only_answers_come_from(&["2.0.0"]);
    walk.on_disk("2.0.0", &["handover", "handover.old", "new"]);
    walk.concluded(Committed);
}

fn back(walk: &Walk) {
    walk.types("cp -f handover.old handover");
    walk.types("kill -HUP $old");
    walk.sees(&BESIDE);
    walk.only_answers_come_from(&["1.0.0", "2.0.0"]);
    walk.types("kill -USR2 $new");
    walk.sees(&[BESIDE[0], "g2 2.0.0 standby: 2 quiesced, pid"]);
    walk.only_answers_come_from(&["1.0.0"]);
    walk.types("kill -WINCH $new");
    walk.sees(&[BESIDE[0], "g2 2.0.0 standby: no workers, pid"]);
    walk.types("kill -QUIT $new");
    walk.sees(&[ALONE]);
    walk.only_answers_come_from(&["1.0.0"]);
    walk.on_disk("1.0.0", &["handover", "handover.old", "new"]);
    walk.concluded(RolledBack);
}

#[test]
fn forward_and_commit_word_for_word() {
    let walk = Walk::with_the_daemon("walk-commit");
    forward(&walk);
    commit(&walk);
    walk.ends_well();
}

#[test]
fn forward_and_back_word_for_word() {
    let walk = Walk::with_the_daemon("walk-back");
    forward(&walk);
    back(&walk);
    walk.ends_well();
}

#[test]
fn forward_and_back_and_forward_with_every_kind_of_request_in_flight() {
    let walk = Walk::with_an_application("walk-app");
    forward(&walk);
    back(&walk);
    forward(&walk);
    commit(&walk);
    walk.ends_well();
}
