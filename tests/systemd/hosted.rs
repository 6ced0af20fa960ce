//! `handover@.service` with real applications in it, as Debian has them: Flask on gunicorn, and each of
//! `examples/`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libtest_mimic::{Completion, Failed, Trial};

use crate::container::{Container, Ran};
use crate::host::{SOON, until};
use crate::kit::client::{Kind, Load, Running, Spec};
use crate::kit::example::{EXPRESS, Example, FASTAPI, FLASK, SINATRA};
use crate::release::{Build, Layer, PROGRAM};
use crate::stories::load::PAUSE;
use crate::tree::Suite;
use crate::{skipped, told, told_or};

/// One story.
struct Story {
    name: &'static str,
    tell: fn(&Blog),
}

const STORIES: [Story; 7] = [
    Story {
        name: "a_restart_starts_the_release_that_serves",
        tell: a_restart_starts_the_release_that_serves,
    },
    Story {
        name: "a_reload_notices_the_link",
        tell: a_reload_notices_the_link,
    },
    Story {
        name: "what_the_kernel_kills_for_want_of_memory_is_told_and_started_again",
        tell: what_the_kernel_kills_for_want_of_memory_is_told_and_started_again,
    },
    Story {
        name: "flask_is_deployed_refused_taken_back_and_left_alone",
        tell: |blog| is_deployed_refused_taken_back_and_left_alone(blog, &FLASK),
    },
    Story {
        name: "fastapi_is_deployed_refused_taken_back_and_left_alone",
        tell: |blog| is_deployed_refused_taken_back_and_left_alone(blog, &FASTAPI),
    },
    Story {
        name: "express_is_deployed_refused_taken_back_and_left_alone",
        tell: |blog| is_deployed_refused_taken_back_and_left_alone(blog, &EXPRESS),
    },
    Story {
        name: "sinatra_is_deployed_refused_taken_back_and_left_alone",
        tell: |blog| is_deployed_refused_taken_back_and_left_alone(blog, &SINATRA),
    },
];

/// One trial a story and suite.
pub fn trials(layer: &Arc<std::io::Result<Layer>>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for suite in Suite::ALL {
        for story in &STORIES {
            trials.push(trial(story, suite, Arc::clone(layer)));
        }
    }
    trials
}

fn trial(story: &'static Story, suite: Suite, layer: Arc<std::io::Result<Layer>>) -> Trial {
    let name = format!("{}::hosted::{}", suite.name(), story.name);
    Trial::ignorable_test(name, move || {
        if std::env::var("HANDOVER_TEST_SYSTEMD").is_ok_and(|v| v == "skip") {
            return skipped("HANDOVER_TEST_SYSTEMD=skip", false);
        }
        let tree = match suite.tree_with_apps() {
            Ok(tree) => tree,
            Err(missing) => return skipped(&missing.0, suite != Suite::Forky),
        };
        let layer = Result::as_ref(&layer).map_err(|e| Failed::from(format!("the layer: {e}")))?;
        let blog = Blog::boot(suite, tree, layer)?;
        told(|| (story.tell)(&blog)).map_err(|panic| {
            let evidence = told_or(|| blog.container.evidence());
            Failed::from(format!("{panic}\n{evidence}"))
        })?;
        Ok(Completion::Completed)
    })
}

/// Also after a crash of everything.
fn a_restart_starts_the_release_that_serves(blog: &Blog) {
    let config = format!("{CONFIG}[control]\ngroup = \"games\"\n");
    blog.container.write("/etc/handover/blog.toml", &config);
    blog.start();
    blog.deploy("2").ok();
    blog.handover(&["rollback"]).ok();
    blog.systemctl(&["restart", UNIT]).ok();
    blog.serves("1");
    blog.deploy("2").ok();
    blog.handover(&["commit"]).ok();
    blog.systemctl(&["kill", "--signal=KILL", UNIT]).ok();
    until("it serves again", SOON, || {
        (blog.property("ActiveState") == "active").then_some(())
    });
    blog.serves("2");
    // Root is killed in the middle of a deploy: the directory's owner, who may give orders, goes on.
    blog.container
        .write("/srv/blog/slow/blog.py", "import time\ntime.sleep(3600)\n");
    blog.container
        .sh("chmod -R a+rX /srv/blog; chown games: /srv/blog")
        .ok();
    let killed = format!(
        "/usr/bin/handover --name {NAME} deploy /srv/blog/slow & \
         until [ -e /srv/blog/.current.lock ] && [ $(readlink /srv/blog/current) = /srv/blog/slow ] && \
         /usr/bin/handover --name {NAME} status | grep -q 'gets ready'; \
         do sleep 0.01; done; kill -KILL $!; ls /srv/blog/.current.lock"
    );
    blog.container.sh(&killed).ok();
    let as_owner = |args: &[&str]| {
        let user = [
            "setpriv",
            "--reuid=games",
            "--regid=games",
            "--clear-groups",
        ];
        let client = ["/usr/bin/handover", "--name", NAME];
        let command = user.iter().chain(&client).chain(args);
        blog.container.run(command).ok();
    };
    as_owner(&["rollback"]);
    as_owner(&["deploy", "/srv/blog/1"]);
    blog.serves("1");
    assert_eq!(blog.linked(), "/srv/blog/1");
    let lock = ["test", "-e", "/srv/blog/.current.lock"];
    assert_eq!(blog.container.run(lock).code, 1);
}

/// `systemctl reload` runs what is on disk: a link that leads elsewhere is another release.
fn a_reload_notices_the_link(blog: &Blog) {
    blog.start();
    let load = clients();
    blog.container
        .sh("ln -s 2 /srv/blog/new && mv -T /srv/blog/new /srv/blog/current")
        .ok();
    blog.systemctl(&["reload", UNIT]).ok();
    blog.serves("2");
    blog.handover(&["commit"]).ok();
    // One that cannot start: systemctl says so.
    blog.container
        .sh("ln -s broken /srv/blog/new && mv -T /srv/blog/new /srv/blog/current")
        .ok();
    assert_ne!(blog.systemctl(&["reload", UNIT]).code, 0);
    blog.serves("2");
    load.stop().assert_clean().assert_kept();
}

/// One of two instances. The front serves on, and so does the other one: who had asked the one that was
/// killed is told so.
fn what_the_kernel_kills_for_want_of_memory_is_told_and_started_again(blog: &Blog) {
    blog.container
        .write("/srv/blog/1/app.py", include_str!("../host/app.py"));
    let gunicorn = CONFIG.lines().find(|line| line.starts_with("command"));
    let single = "command = [\"python3\", \"app.py\", \"{socket}\"]\ninstances = 2";
    let config = CONFIG.replace(gunicorn.expect("a command"), single);
    blog.container.write("/etc/handover/blog.toml", &config);
    let drop_in = format!("/etc/systemd/system/{UNIT}.d/memory.conf");
    let limit = format!("[Service]\nMemoryMax={MEMORY}\nMemorySwapMax=0\n");
    blog.container.write(&drop_in, &limit);
    blog.systemctl(&["enable", "--now", UNIT]).ok();
    let _limited = Limited::unless_systemd_does(blog);
    let main = blog.main_pid();
    let before = blog.instances();
    let load = clients();
    let asked = blog.container.run([
        "curl",
        "-sS",
        "--write-out",
        "%{http_code}",
        "http://127.0.0.1/eat",
    ]);
    assert!(asked.stdout.ends_with("502"), "{asked}");
    // The kernel chooses: it may find that one process is not enough.
    let (killed, after) = until("both answer again", SOON, || {
        let app = &blog.status()["masters"][0]["app"];
        let killed = app["restarts"].as_u64().filter(|killed| *killed > 0)?;
        (app["answering"] == 2).then(|| (killed, app["ended"].as_str().map(str::to_owned)))
    });
    let said = " of the application was killed by SIGKILL (the kernel ran out of memory, or a limit such as \
                MemoryMax= was reached)";
    assert!(
        after.as_ref().is_some_and(|why| why.contains(said)),
        "{after:?}"
    );
    let journal = format!("journalctl --unit {UNIT} --output=cat");
    let journal = blog.container.sh(&journal);
    let lines = |words| {
        journal
            .stdout
            .lines()
            .filter(|line| line.contains(words))
            .count()
    };
    assert_eq!(lines(said) as u64, killed, "{journal}");
    // Nobody is asked twice for what killed somebody.
    assert_eq!(lines(": it eats"), 1, "{journal}");
    let metrics = blog.container.sh(&format!(
        "curl -sS --unix-socket /run/{NAME}/control.sock http://x/metrics"
    ));
    let counted = format!("handover_app_restarts_total{{reason=\"out_of_memory\"}} {killed}\n");
    assert!(metrics.ok().contains(&counted), "{metrics}");
    let kept = blog.instances();
    let kept = before.iter().filter(|pid| kept.contains(pid)).count();
    assert_eq!(kept as u64 + killed, 2);
    assert_eq!(blog.main_pid(), main);
    // What was answered meanwhile may be in its client's socket.
    load.wait_answers(100, SOON);
    load.mark("after");
    load.wait_answers(100, SOON);
    let report = load.stop();
    assert_eq!(report.phase("after").failures(), 0, "{report}");
    // What was with that instance: each client is told, and keeps its connection, unless its answer had
    // begun.
    let (told, cut) = (report.count(Kind::BadStatus), report.count(Kind::Eof));
    assert_eq!(report.failed(), told + cut, "{report}");
    assert!(told + cut <= CLIENTS as u64 * killed, "{report}");
    assert_eq!(report.total.opened, CLIENTS as u64 + cut, "{report}");
}

/// By the example's own configuration, but for where it is and what it is installed with. Each fault is
/// refused by its reason, the clients notice nothing, and systemd knows the main process. Another program
/// of ours takes the application over, and proves itself for all instances; at the package's end they end.
fn is_deployed_refused_taken_back_and_left_alone(blog: &Blog, example: &Example) {
    let write = |release: &str, main: &str| {
        for entry in std::fs::read_dir(example.directory()).expect("the example") {
            let name = entry.expect("a file").file_name();
            let name = name.to_str().expect("a name");
            // The directory of files beside it has one.
            let (name, text) = match name {
                "static" => ("static/blog.css", example.text("static/blog.css")),
                _ => (name, example.text(name)),
            };
            let text = if name == example.main { main } else { &text };
            let path = format!("/srv/blog/{release}/{name}");
            blog.container.write(&path, text);
        }
    };
    let configure = |start_timeout: &str| {
        let text = example
            .config(Path::new("/srv/blog/current"))
            .replace("venv/bin/", "");
        let text = format!(
            "workers = 2\n[[listener]]\nname = \"http\"\naddress = \"[::]:80\"\n\
             [upgrade]\nprobation = \"10m\"\nstart_timeout = {start_timeout:?}\n{text}"
        );
        blog.container.write("/etc/handover/blog.toml", &text);
    };
    let good = example.text(example.main);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port of the container");
    let port = taken.local_addr().expect("its address").port();
    let faults: Vec<_> = example.faults(port).collect();
    let bad = faults.iter().map(|one| (one.name, &one.source));
    for (release, main) in [("1", &good), ("2", &good)].into_iter().chain(bad) {
        write(release, main);
    }
    configure("1m");
    blog.container.sh("chmod -R a+rX /srv/blog").ok();
    blog.systemctl(&["enable", "--now", UNIT]).ok();
    let serves = |release: &str| {
        let [text, json] = [
            format!("release {release}"),
            format!("\"release\":\"{release}\""),
        ];
        blog.until_it_answers(|ran| ran.ends_with(&text) || ran.contains(&json));
    };
    serves("1");
    let load = clients();
    let first = blog.main_pid();
    blog.deploy("2").ok();
    serves("2");
    assert_ne!(blog.main_pid(), first);
    load.wait_answers(100, SOON);
    blog.handover(&["rollback"]).ok();
    serves("1");
    assert_eq!(blog.main_pid(), first);
    assert_eq!(blog.linked(), "/srv/blog/1");
    for fault in &faults {
        configure(fault.patience("1m"));
        let refused = blog.deploy(fault.name);
        assert_eq!(refused.code, 1, "{}: {refused}", fault.name);
        // gunicorn logs in its handler of SIGCHLD; when that meets a line on its way, the trace is longer than
        // what we keep (Python's "reentrant call"). The journal has all of it.
        let told = refused.stderr.contains(fault.says)
            || refused.stderr.contains("reentrant call") && {
                let journal = format!("journalctl --sync; journalctl --unit {UNIT} --output=cat");
                blog.container.sh(&journal).stdout.contains(fault.says)
            };
        assert!(told, "{}: {refused}", fault.name);
        assert_eq!(blog.linked(), "/srv/blog/1");
        assert_eq!(blog.main_pid(), first);
        serves("1");
    }
    configure("1m");
    blog.deploy("2").ok();
    blog.handover(&["commit"]).ok();
    serves("2");
    load.wait_answers(100, SOON);
    let application = blog.instances();
    let script = format!(
        "cp -p {} {PROGRAM}.tmp && mv -T {PROGRAM}.tmp {PROGRAM}",
        Build::B.path()
    );
    blog.container.sh(&script).ok();
    blog.package(&["posttrans", "1"]).ok();
    let exe = format!("cmp /proc/{}/exe {}", blog.main_pid(), Build::B.path());
    blog.container.sh(&exe).ok();
    assert_eq!(blog.instances(), application);
    serves("2");
    load.wait_answers(100, SOON);
    blog.handover(&["commit"]).ok();
    let good = format!("cmp -s {PROGRAM}.good {}", Build::B.path());
    until("the guard keeps what proved itself", SOON, || {
        (blog.container.sh(&good).code == 0).then_some(())
    });
    load.wait_answers(100, SOON);
    load.stop().assert_clean().assert_kept();
    assert_eq!(blog.instances(), application);
    serves("2");
    assert_eq!(blog.property("ActiveState"), "active");
    let list = blog.container.run(["/usr/bin/handover", "list"]);
    assert!(list.ok().contains(NAME), "{list}");
    blog.package(&["preun", "0"]).ok();
    assert_eq!(blog.property("ActiveState"), "inactive");
    // Not the command that looks for them.
    let left = [
        "pgrep",
        "--full",
        "[g]unicorn|[u]vicorn|[s]erver.js|[p]uma|^handover(@[^:]*)?: ",
    ];
    assert_eq!(blog.container.run(left).stdout, "");
}

/// A container with two good releases and a broken one in /srv/blog.
struct Blog {
    container: Container,
}

impl Blog {
    fn boot(suite: Suite, tree: &Path, layer: &Layer) -> std::io::Result<Self> {
        let container = Container::boot_tree(suite, tree, layer.path())?;
        for (release, source) in [("1", BLOG), ("2", BLOG), ("broken", "def (\n")] {
            container.write(&format!("/srv/blog/{release}/blog.py"), source);
        }
        container.sh("ln -s 1 /srv/blog/current").ok();
        container.write("/etc/handover/blog.toml", CONFIG);
        container.sh("chmod -R a+rX /srv/blog /etc/handover").ok();
        Ok(Self { container })
    }

    fn start(&self) {
        self.systemctl(&["enable", "--now", UNIT]).ok();
        self.serves("1");
    }

    fn systemctl(&self, args: &[&str]) -> Ran {
        self.container.run(["systemctl"].iter().chain(args))
    }

    /// What an rpm's scriptlets run.
    fn package(&self, args: &[&str]) -> Ran {
        let script = "/usr/lib/handover/package";
        self.container
            .write(script, include_str!("../../packaging/package"));
        self.container.run(["sh", script].iter().chain(args))
    }

    fn handover(&self, args: &[&str]) -> Ran {
        let client = ["/usr/bin/handover", "--name", NAME];
        self.container.run(client.iter().chain(args))
    }

    fn deploy(&self, release: &str) -> Ran {
        self.handover(&["deploy", &format!("/srv/blog/{release}")])
    }

    fn property(&self, name: &str) -> String {
        let name = format!("--property={name}");
        self.systemctl(&["show", "--value", &name, UNIT])
            .ok()
            .to_owned()
    }

    fn main_pid(&self) -> u32 {
        self.property("MainPID").parse().expect("a number")
    }

    fn status(&self) -> serde_json::Value {
        let ran = self.handover(&["status", "--json"]);
        serde_json::from_str(ran.ok()).unwrap_or_else(|e| panic!("{e}: {ran}"))
    }

    /// The first process of each instance that the owner's workers are in front of.
    fn instances(&self) -> Vec<u64> {
        let status = self.status();
        let masters = status["masters"].as_array().expect("masters");
        let owner = masters.iter().find(|one| one["pid"] == status["owner_pid"]);
        let pids = owner.and_then(|owner| owner["app"]["pids"].as_array());
        let pids = pids.unwrap_or_else(|| panic!("no application: {status:#}"));
        pids.iter().filter_map(serde_json::Value::as_u64).collect()
    }

    fn linked(&self) -> String {
        let link = ["readlink", "-f", "/srv/blog/current"];
        self.container.run(link).ok().to_owned()
    }

    #[track_caller]
    fn serves(&self, release: &str) {
        self.until_it_answers(|text| text == format!("release {release}"));
    }

    /// A new connection may still meet the generation of before, for a moment.
    #[track_caller]
    fn until_it_answers(&self, so: impl Fn(&str) -> bool) {
        until("an answer of the release that serves", SOON, || {
            let ran = self.container.run(["curl", "-sS", "http://127.0.0.1/"]);
            so(ran.stdout.trim_end()).then_some(())
        });
    }
}

/// A limit of memory for all processes of the unit, in a control group of version 1 of this machine's.
/// Removed at the end.
struct Limited(Option<PathBuf>);

impl Limited {
    /// Where the machine counts memory in version 1, systemd in the container cannot.
    fn unless_systemd_does(blog: &Blog) -> Self {
        let controllers = blog.container.path("/sys/fs/cgroup/cgroup.controllers");
        let controllers = std::fs::read_to_string(controllers).expect("control groups");
        if controllers.split_whitespace().any(|one| one == "memory") {
            return Self(None);
        }
        let name = format!("{MEMORY_V1}/handover-{}", blog.container.leader());
        let limited = Self(Some(PathBuf::from(&name)));
        std::fs::create_dir(&name).expect("a control group");
        std::fs::write(format!("{name}/memory.limit_in_bytes"), MEMORY).expect("its limit");
        let group = blog.property("ControlGroup");
        let unit = format!("cat /sys/fs/cgroup{group}/cgroup.procs");
        for pid in blog.container.sh(&unit).ok().lines() {
            // In the container's numbers, at this machine's files.
            let leader = blog.container.leader().to_string();
            let moved = std::process::Command::new("nsenter")
                .args(["--target", &leader, "--pid", "sh", "-euc"])
                .arg(format!("echo {pid} >{name}/cgroup.procs"))
                .status();
            assert!(moved.expect("nsenter").success(), "cannot move {pid}");
        }
        limited
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let Some(group) = &self.0 else { return };
        let all = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        for pid in all.lines() {
            let _ = std::fs::write(format!("{MEMORY_V1}/cgroup.procs"), pid);
        }
        let _ = std::fs::remove_dir(group);
    }
}

const MEMORY: &str = "160M";
const MEMORY_V1: &str = "/sys/fs/cgroup/memory";

fn clients() -> Running {
    let spec = Spec::new("127.0.0.1:80").keep_alive().connections(CLIENTS);
    let load = Load::start(spec.pause(10 * PAUSE));
    load.wait_answers(50, SOON);
    load
}

const CLIENTS: usize = 16;

const NAME: &str = "handover@blog";
const UNIT: &str = "handover@blog.service";

pub const CONFIG: &str = r#"workers = 2
[[listener]]
name = "http"
address = "[::]:80"
[upgrade]
probation = "10m"
[app]
directory = "/srv/blog/current"
command = ["gunicorn", "-b", "unix:{socket}", "--workers", "2", "--threads", "4", "blog:app"]
ready = "/healthz"
"#;

pub const BLOG: &str = r#"import os

from flask import Flask

app = Flask(__name__)
RELEASE = os.path.basename(os.getcwd())


@app.get("/")
def index():
    return f"release {RELEASE}\n"


@app.get("/healthz")
def healthz():
    return "ok\n"
"#;
