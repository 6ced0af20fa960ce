//! nginx's upgrade on the fly, as its documentation walks through it, with two real builds of the
//! program and strict clients who notice nothing. After each step: what `ps`, `status --json` and
//! the pid files say, and which version answers.

mod kit;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use kit::build;
use kit::client::{Kind, Load, Running, Spec};
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
            app()
                .path("/echo")
                .slow_upload(40_000, 10, gap)
                .connections(2),
            app()
                .path("/echo")
                .chunked_upload(40_000, 10, gap)
                .connections(2),
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
        // Still so; a master too busy to answer in time is asked again.
        self.service.wait_picture(picture);
        let keeper = kit::proc::Process::look(self.service.keeper()).expect("the keeper");
        assert_eq!(keeper.comm, "keeper");
        assert_eq!(self.service.exited(), None);
    }

    /// Asks on new connections: who accepts now?
    #[track_caller]
    fn only_answers_come_from(&self, versions: &[&str]) {
        let asked = Load::start(
            self.service
                .load("http")
                .fresh()
                .connections(2)
                .pause(PAUSE),
        );
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

    /// No request failed, nobody was refused, and every connection is still the one it was.
    #[track_caller]
    fn ends_well(self) {
        let report = self.load.stop();
        report.assert_clean();
        assert_eq!(report.count(Kind::Refused), 0);
        assert_eq!(report.total.closed_politely, 0, "{report}");
        println!("{report}");
    }

    /// Runs a client, as an operator does.
    #[track_caller]
    fn orders(&self, args: &[&str], code: i32) {
        self.load.mark(&args.join(" "));
        self.service.cli(args).assert_code(code);
    }

    /// What was committed is what is on disk, and nothing is left behind.
    #[track_caller]
    fn on_disk(&self, version: &str, files: &[&str]) {
        let status = self
            .service
            .wait_status("the file on disk to be what runs", |s| {
                s.disk.matches_running && s.upgrade.is_none()
            });
        assert_eq!(status.version, version);
        assert_eq!(status.warnings, Vec::<String>::new());
        let mut files: Vec<String> = files
            .iter()
            .map(|f| f.replace("handover", self.program))
            .collect();
        files.sort();
        assert_eq!(self.service.bin_files(), files);
    }

    /// How the last upgrade ended.
    #[track_caller]
    fn concluded(&self, outcome: handover::api::Outcome) {
        // The service is back before the file is.
        let status = self
            .service
            .wait_status("the end of the upgrade", |s| s.upgrade.is_none());
        let last = status.last.expect("an upgrade");
        assert_eq!(
            (last.from.as_str(), last.to.as_deref()),
            ("1.0.0", Some("2.0.0"))
        );
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
    walk.concluded(Committed);
    walk.on_disk("2.0.0", &["handover", "handover.old", "new"]);
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
    walk.concluded(RolledBack);
    walk.on_disk("1.0.0", &["handover", "handover.old", "new"]);
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

/// The file that was rejected is kept aside, the one that runs is back.
fn went_back(walk: &Walk) {
    walk.sees(&[ALONE]);
    walk.only_answers_come_from(&["1.0.0"]);
    walk.concluded(RolledBack);
    // `.old` is the running build again: it is used up when it was moved back to the path.
    let with_old = ["handover", "handover.old", "handover.rejected", "new"];
    let without = ["handover", "handover.rejected", "new"];
    let files: &[&str] = if walk.service.bin_files().iter().any(|f| f == "handover.old") {
        &with_old
    } else {
        &without
    };
    walk.on_disk("1.0.0", files);
}

fn went_on(walk: &Walk) {
    walk.sees(&[COMMITTED]);
    walk.only_answers_come_from(&["2.0.0"]);
    walk.concluded(Committed);
    walk.on_disk("2.0.0", &["handover", "handover.old", "new"]);
}

/// The new program is on disk; both generations accept.
fn beside(test: &str) -> Walk {
    let walk = Walk::with_the_daemon(test);
    walk.types("cp handover handover.old; cp -f new/handover handover");
    walk.types("kill -USR2 $old");
    walk.sees(&BESIDE);
    walk
}

/// The new one serves, the old one is parked.
fn parked(test: &str) -> Walk {
    let walk = beside(test);
    walk.types("kill -WINCH $old");
    walk.sees(&PARKED);
    walk
}

#[test]
fn quit_without_winch_makes_it_final_too() {
    let walk = beside("walk-quit");
    walk.types("kill -QUIT $old");
    went_on(&walk);
    walk.ends_well();
}

#[test]
fn quit_to_the_new_one_beside_the_old_one_goes_back() {
    let walk = beside("walk-quit-new");
    walk.types("kill -QUIT $new");
    went_back(&walk);
    walk.ends_well();
}

#[test]
fn hup_to_the_old_one_and_quit_to_the_new_one_goes_back() {
    let walk = parked("walk-hup-quit");
    walk.types("kill -HUP $old");
    walk.sees(&BESIDE);
    walk.types("kill -QUIT $new");
    went_back(&walk);
    walk.ends_well();
}

#[test]
fn term_to_the_new_one_alone_goes_back() {
    // nginx: "when the new master process exits, the old master process will start new worker
    // processes".
    let walk = parked("walk-term-new");
    walk.types("kill -TERM $new");
    went_back(&walk);
    walk.ends_well();
}

#[test]
fn forward_and_commit_in_one_breath() {
    let walk = Walk::with_the_daemon("walk-breath");
    walk.types("cp handover handover.old; cp -f new/handover handover");
    walk.types("kill -USR2 $old; kill -WINCH $old; kill -QUIT $old");
    went_on(&walk);
    walk.ends_well();
}

#[test]
fn back_in_one_breath() {
    let walk = parked("walk-breath-back");
    walk.types("kill -HUP $old; kill -USR2 $new; kill -WINCH $new; kill -QUIT $new");
    went_back(&walk);
    walk.ends_well();
}

#[test]
fn hup_and_quit_in_one_breath() {
    let walk = parked("walk-breath-quit");
    walk.types("kill -HUP $old; kill -QUIT $new");
    went_back(&walk);
    walk.ends_well();
}

#[test]
fn hold_and_commit_by_orders() {
    let walk = Walk::with_the_daemon("walk-hold-commit");
    walk.types("cp -f new/handover handover");
    walk.orders(&["upgrade", "--hold"], 0);
    walk.sees(&BESIDE);
    walk.only_answers_come_from(&["1.0.0", "2.0.0"]);
    for refused in [&["upgrade"][..], &["reload"]] {
        // The file on disk is not what the owner runs, and what it runs is not alone.
        walk.orders(refused, 75);
        walk.sees(&BESIDE);
    }
    walk.orders(&["commit"], 0);
    went_on(&walk);
    walk.orders(&["commit"], 0);
    walk.ends_well();
}

#[test]
fn hold_and_rollback_by_orders() {
    let walk = Walk::with_the_daemon("walk-hold-rollback");
    walk.types("cp -f new/handover handover");
    walk.orders(&["upgrade", "--hold"], 0);
    walk.sees(&BESIDE);
    walk.orders(&["rollback"], 0);
    went_back(&walk);
    walk.ends_well();
}

#[test]
fn hold_winch_and_rollback() {
    let walk = Walk::with_the_daemon("walk-hold-winch");
    walk.types("cp -f new/handover handover");
    walk.orders(&["upgrade", "--hold"], 0);
    walk.types("kill -WINCH $old");
    walk.sees(&PARKED);
    walk.orders(&["rollback"], 0);
    went_back(&walk);
    // Again, and on.
    walk.types("cp -f new/handover handover");
    walk.orders(&["upgrade", "--hold"], 0);
    walk.types("kill -WINCH $old");
    walk.sees(&PARKED);
    walk.orders(&["commit"], 0);
    walk.sees(&[COMMITTED]);
    walk.concluded(Committed);
    walk.ends_well();
}
