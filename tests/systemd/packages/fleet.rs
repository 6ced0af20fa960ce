//! A fleet: four booted hosts, a signed apt repository and Ansible on a machine of its own, connected
//! by a bridge; every host under the strict client's load from outside. What is tried is what is in
//! `packaging/ansible` and `packaging/repository`, by the commands that docs/fleet.md names.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed, Trial};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::made::{self, BAD, Packages};
use super::skipped;
use crate::container::Container;
use crate::host::{Host, Listener, until};
use crate::kit::client::Running;
use crate::stories::load;
use crate::told;
use crate::tree::{Suite, cache};

/// How many.
const HOSTS: usize = 4;

/// A roll over all of them, in three batches, on a busy machine.
const ROLL: Duration = Duration::from_secs(600);

pub fn trial(packages: Arc<OnceLock<Result<Packages, String>>>) -> Trial {
    Trial::ignorable_test(
        "packages::trixie::fleet::a_bad_release_stops_at_the_first_host",
        move || {
            if std::env::var("HANDOVER_TEST_PACKAGES").is_ok_and(|wish| wish == "skip") {
                return Ok(Completion::ignored_with("HANDOVER_TEST_PACKAGES=skip"));
            }
            if let Err(missing) = made::able().and_then(|()| able()) {
                return skipped(&missing);
            }
            let tree = match Suite::Trixie.tree_of_fleet() {
                Ok(tree) => tree,
                Err(missing) => return skipped(&missing.0),
            };
            let packages = packages.get_or_init(|| told(Packages::make)).as_ref()?;
            let fleet = told(|| Fleet::boot(&tree, packages.layer()))?;
            told(|| tell(&fleet))
                .map_err(|panic| Failed::from(format!("{panic}\n{}", fleet.evidence())))?;
            Ok(Completion::Completed)
        },
    )
}

/// The whole story; what one part leaves behind is where the next one begins.
fn tell(fleet: &Fleet) {
    // From nothing to a service on four hosts: the role brings the repository, too.
    fleet.publish(&["1.0.0"]);
    let repository = format!("handover_repository=http://{GATEWAY}");
    fleet
        .plays("roll.yml", "1.0.0", &["--extra-vars", &repository])
        .succeeds();
    fleet.all_serve("1.0.0");
    let load = fleet.load();

    a_good_release(fleet);
    a_bad_one(fleet);
    one_that_turns_bad(fleet);
    two_hosts_go_back(fleet);

    for (host, load) in load.into_iter().enumerate() {
        load::goes_on(&load);
        let report = load.stop();
        report.assert_clean();
        println!("{}: {} answers, none failed", name(host), report.total.ok);
    }
}

/// All of them, nobody is refused a request; what is done already is left alone.
fn a_good_release(fleet: &Fleet) {
    fleet.publish(&["1.0.0", "2.0.0"]);
    let checked = fleet.plays("roll.yml", "2.0.0", &["--check", "--limit", "web1,web2"]);
    checked.succeeds().changed(2);
    fleet.all_serve("1.0.0");
    fleet
        .plays("roll.yml", "2.0.0", &[])
        .succeeds()
        .changed(HOSTS);
    fleet.all_serve("2.0.0");
    let before = fleet.main_pids();
    fleet.plays("roll.yml", "2.0.0", &[]).succeeds().changed(0);
    assert_eq!(fleet.main_pids(), before, "the second time nothing happens");
}

/// The first host refuses it, the roll ends with the reason, and nobody else has heard of it.
fn a_bad_one(fleet: &Fleet) {
    fleet.publish(&["1.0.0", "2.0.0", BAD]);
    let before = fleet.main_pids();
    let roll = fleet.plays("roll.yml", BAD, &[]);
    roll.fails()
        .says("web1: 4.0.0 was refused")
        .says("exited with code 3");
    roll.says("2.0.0 serves");
    assert_eq!(fleet.main_pids(), before);
    fleet.all_serve("2.0.0");
    assert_eq!(
        fleet.installed(),
        ["4.0.0-1", "2.0.0-1", "2.0.0-1", "2.0.0-1"]
    );
    // Whoever forgets about it and goes on is told before anything is touched.
    fleet.publish(&["1.0.0", "2.0.0", "3.0.0"]);
    let next = fleet.plays("roll.yml", "3.0.0", &[]);
    next.fails()
        .says("web1: 4.0.0-1 is installed, but 2.0.0 runs");
    assert_eq!(fleet.main_pids(), before);
    fleet.plays("back.yml", BAD, &[]).succeeds().changed(1);
    assert_eq!(fleet.installed(), ["2.0.0-1"; HOSTS]);
    assert_eq!(fleet.main_pids(), before);
}

/// It serves, then its health goes: the first host goes back by itself, the roll ends.
fn one_that_turns_bad(fleet: &Fleet) {
    let first = &fleet.hosts[0].container;
    // Several bad answers in a row are bad health: they need their time.
    let probation = |from: &str, to: &str| {
        let script = format!("sed -i 's/\"{from}\"/\"{to}\"/' /etc/handover/conf.d/site.toml");
        first.sh(&script).ok();
    };
    probation("3s", "50s");
    let before = fleet.main_pids();
    let roll = thread::scope(|scope| {
        let roll = scope.spawn(|| {
            fleet.enter();
            fleet.plays("roll.yml", "3.0.0", &[])
        });
        until("3.0.0 is in probation on web1", ROLL, || {
            let status = fleet.hosts[0].handover(&["status", "--json"]).stdout;
            let status: serde_json::Value = serde_json::from_str(&status).ok()?;
            (status["version"] == "3.0.0" && status["phase"] == "probation").then_some(())
        });
        first.sh(&format!("mv {HEALTH} {HEALTH}.away")).ok();
        roll.join().expect("the roll ends")
    });
    roll.fails()
        .says("web1: 3.0.0 was refused")
        .says("rolled back: health check /health");
    assert_eq!(fleet.main_pids(), before, "the predecessor has taken back");
    fleet.all_serve("2.0.0");
    assert_eq!(fleet.installed()[1..], ["2.0.0-1"; HOSTS - 1]);
    first.sh(&format!("mv {HEALTH}.away {HEALTH}")).ok();
    probation("50s", "3s");
    fleet.plays("back.yml", "3.0.0", &[]).succeeds().changed(1);
    assert_eq!(fleet.installed(), ["2.0.0-1"; HOSTS]);
}

/// It was rolled out to two hosts, for good, when somebody finds that it must not stay.
fn two_hosts_go_back(fleet: &Fleet) {
    let before = fleet.main_pids();
    fleet
        .plays("roll.yml", "3.0.0", &["--limit", "web2,web3"])
        .succeeds()
        .changed(2);
    assert_eq!(fleet.versions(), ["2.0.0", "3.0.0", "3.0.0", "2.0.0"]);
    fleet.plays("back.yml", "3.0.0", &[]).succeeds().changed(2);
    fleet.all_serve("2.0.0");
    assert_eq!(fleet.installed(), ["2.0.0-1"; HOSTS]);
    let after = fleet.main_pids();
    for untouched in [0, 3] {
        assert_eq!(after[untouched], before[untouched], "{}", name(untouched));
    }
}

/// The hosts, and the machine beside them.
struct Fleet {
    hosts: Vec<Host>,
    dir: tempfile::TempDir,
    layer: PathBuf,
    control: Control,
}

/// The network namespace of the machine that Ansible and the repository run on. The story's thread is
/// in it.
struct Control {
    outside: File,
    inside: File,
    holder: Child,
    web: Option<Child>,
}

impl Drop for Control {
    fn drop(&mut self) {
        for child in self.web.iter_mut().chain([&mut self.holder]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = move_into_link_name_space(self.outside.as_fd(), Some(LinkNameSpaceType::Network));
    }
}

impl Fleet {
    fn boot(tree: &Path, layer: &Path) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let mut fleet = Self {
            hosts: Vec::new(),
            dir,
            layer: layer.to_owned(),
            control: Control::new(),
        };
        fleet.enter();
        sh(BRIDGE, &[]);
        fleet.prepare(tree);
        for number in 0..HOSTS {
            let container = Container::boot_tree(Suite::Trixie, tree, &fleet.at("host"));
            let container = container.unwrap_or_else(|e| panic!("{}: {e}", name(number)));
            // Booting has taken this thread into the host's network.
            fleet.enter();
            let leader = container.leader().to_string();
            sh(LINK, &[&format!("host{number}"), &leader]);
            let address = format!(
                "ip address add {}/24 dev lan; ip link set lan up",
                address(number)
            );
            container.sh(&address).ok();
            fleet.hosts.push(Host {
                container,
                listener: Listener::Own,
            });
        }
        let web = Command::new("python3")
            .args(["-m", "http.server", "--bind", GATEWAY, "--directory"])
            .args([&*fleet.at("repository"), Path::new("80")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        fleet.control.web = Some(web.expect("python3"));
        fleet
    }

    /// Keys, what every host has from the beginning, the inventory.
    fn prepare(&self, tree: &Path) {
        sh(
            PREPARE,
            &[&self.at("").to_string_lossy(), &tree.to_string_lossy()],
        );
        let mut inventory = String::from("[web]\n");
        for number in 0..HOSTS {
            let (name, address) = (name(number), address(number));
            let _ = writeln!(inventory, "{name} ansible_host={address}");
        }
        let _ = writeln!(inventory, "[web:vars]\nansible_user=root\n{VARS}");
        let ssh = format!(
            "-F none -i {key} -o UserKnownHostsFile={known} -o ControlPath={dir}/%C -o ControlMaster=auto \
             -o ControlPersist=60",
            key = self.at("key").display(),
            known = self.at("known_hosts").display(),
            dir = self.dir.path().display(),
        );
        let _ = writeln!(inventory, "ansible_ssh_common_args='{ssh}'");
        let key = self.at("repository/handover.asc");
        let _ = writeln!(inventory, "handover_repository_key={}", key.display());
        fs::write(self.at("inventory"), inventory).expect("written");
    }

    /// The repository has these versions from now on.
    fn publish(&self, versions: &[&str]) {
        let debs: Vec<_> = versions
            .iter()
            .map(|v| made::deb_in(&self.layer, v))
            .collect();
        let ran = Command::new(source("packaging/repository"))
            .args(["--key", "fleet@example.org"])
            .arg(self.at("repository"))
            .args(debs)
            .env("GNUPGHOME", self.at("gnupg"))
            .stdin(Stdio::null())
            .output()
            .expect("packaging/repository");
        assert!(
            ran.status.success(),
            "{}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }

    /// Runs a playbook on them.
    fn plays(&self, playbook: &str, version: &str, more: &[&str]) -> Played {
        let (limit, began) = (ROLL.as_secs().to_string(), Instant::now());
        let ran = Command::new("timeout")
            .args(["--kill-after=5", &limit])
            .arg(ansible().expect("it is there"))
            .arg("--inventory")
            .arg(self.at("inventory"))
            .args([
                playbook,
                "--extra-vars",
                &format!("handover_version={version}"),
            ])
            .args(more)
            .current_dir(source("packaging/ansible"))
            .env("ANSIBLE_HOME", self.at("ansible"))
            .env("ANSIBLE_NOCOLOR", "1")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .expect("timeout");
        let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
        let command = format!("{playbook} {version} {more:?}");
        println!("{command}: {:.0?}, {}", began.elapsed(), ran.status);
        Played {
            command,
            said: said.into_owned(),
            code: ran.status.code(),
        }
    }

    fn load(&self) -> Vec<Running> {
        (0..HOSTS)
            .map(|number| load::on(&format!("{}:80", address(number))))
            .collect()
    }

    #[track_caller]
    fn all_serve(&self, version: &str) {
        assert_eq!(self.versions(), [version; HOSTS]);
    }

    fn versions(&self) -> Vec<String> {
        let version = |host: &Host| host.status()["version"].as_str().map(str::to_owned);
        self.hosts.iter().filter_map(version).collect()
    }

    fn main_pids(&self) -> Vec<u32> {
        self.hosts.iter().map(Host::main_pid).collect()
    }

    /// What dpkg says.
    fn installed(&self) -> Vec<String> {
        let query = [
            "dpkg-query",
            "--show",
            "--showformat=${Version}",
            "handover",
        ];
        let of = |host: &Host| host.container.run(query).ok().to_owned();
        self.hosts.iter().map(of).collect()
    }

    /// Takes this thread to the machine beside them.
    fn enter(&self) {
        move_into_link_name_space(
            self.control.inside.as_fd(),
            Some(LinkNameSpaceType::Network),
        )
        .expect("its network");
    }

    fn at(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn evidence(&self) -> String {
        let mut text = String::new();
        for (number, host) in self.hosts.iter().enumerate() {
            let script = "handover status; journalctl --no-pager --output=short-precise --unit=handover | tail -n 40";
            let ran = host.container.run(["sh", "-c", script]);
            let _ = writeln!(text, "--- {}\n{ran}", name(number));
        }
        text
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Each one takes this thread to where it was booted from: before that place goes.
        self.hosts.clear();
    }
}

impl Control {
    fn new() -> Self {
        let outside = File::open("/proc/thread-self/ns/net").expect("a network");
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec sleep infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        // It is in its own network when it says so.
        let mut line = [0];
        let mut said = holder.stdout.take().expect("a pipe");
        std::io::Read::read_exact(&mut said, &mut line).expect("a network of its own");
        let inside = File::open(format!("/proc/{}/ns/net", holder.id())).expect("its network");
        Self {
            outside,
            inside,
            holder,
            web: None,
        }
    }
}

/// What a playbook came to.
struct Played {
    command: String,
    said: String,
    code: Option<i32>,
}

impl Played {
    #[track_caller]
    fn succeeds(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.command, self.said);
        self
    }

    /// 2: Ansible's word for hosts that failed.
    #[track_caller]
    fn fails(&self) -> &Self {
        assert_eq!(self.code, Some(2), "{}\n{}", self.command, self.said);
        self
    }

    #[track_caller]
    fn says(&self, what: &str) -> &Self {
        // A long line may be broken anywhere between words.
        let said = self.said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            said.contains(what),
            "no {what:?} of {}\n{}",
            self.command,
            self.said
        );
        self
    }

    /// On how many hosts something was changed.
    #[track_caller]
    fn changed(&self, hosts: usize) -> &Self {
        let recap = self.said.split("PLAY RECAP").nth(1).unwrap_or_default();
        let changed = recap
            .lines()
            .filter(|line| line.contains("changed=") && !line.contains("changed=0 "));
        assert_eq!(changed.count(), hosts, "{}\n{}", self.command, self.said);
        self
    }
}

/// What it needs beside containers and packages.
fn able() -> Result<(), String> {
    if ansible().is_none() {
        return Err("ansible-playbook is missing (pip install ansible-core)".into());
    }
    for (tool, package) in [
        ("/usr/bin/ssh-keygen", "openssh-client"),
        ("/usr/bin/gpg", "gpg"),
        ("/usr/bin/apt-ftparchive", "apt-utils"),
        ("/usr/sbin/ip", "iproute2"),
        ("/usr/bin/python3", "python3"),
    ] {
        if !Path::new(tool).exists() {
            return Err(format!("{tool} is missing (apt-get install {package})"));
        }
    }
    Ok(())
}

/// Where `.ci/run` installs it, or on the path.
fn ansible() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(cache().join("ansible/venv/bin"))
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join("ansible-playbook"))
        .find(|file| file.is_file())
}

fn name(number: usize) -> String {
    format!("web{}", number + 1)
}

fn address(number: usize) -> String {
    format!("10.77.0.{}", number + 11)
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn sh(script: &str, args: &[&str]) {
    let out = Command::new("sh")
        .args(["-euc", script, "fleet"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("sh");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

const GATEWAY: &str = "10.77.0.1";

/// A file of the site that the health check asks for.
const HEALTH: &str = "/srv/www/health";

/// How this fleet is set up; the rest is the role's.
const VARS: &str = "handover_gate_timeout=60s\nhandover_free_mib=1";

const BRIDGE: &str = "
ip link set lo up
ip link add name lan type bridge
ip address add 10.77.0.1/24 dev lan
ip link set lan up
";

/// $1: the name of our end. $2: a process in the other's network.
const LINK: &str = r#"
ip link add name "$1" type veth peer name lan netns "$2"
ip link set "$1" master lan up
"#;

/// $1: our directory. $2: the tree of all hosts, which have one key.
const PREPARE: &str = r#"
cd "$1"
mkdir -m 700 gnupg
mkdir -p repository host/root/.ssh host/etc/handover/conf.d host/srv/www
ssh-keygen -q -t ed25519 -N '' -f key
cp key.pub host/root/.ssh/authorized_keys
chmod 700 host/root host/root/.ssh
echo "10.77.0.* $(cut -d ' ' -f 1,2 "$2/etc/ssh/ssh_host_ed25519_key.pub")" >known_hosts
# Debian is out of reach from there.
mkdir -p host/etc/apt
: >host/etc/apt/sources.list
echo hello >host/srv/www/index.html
echo well >host/srv/www/health
cat >host/etc/handover/conf.d/site.toml <<'END'
workers = 1
[site]
root = "/srv/www"
[upgrade]
probation = "3s"
health = "/health"
END
export GNUPGHOME=$PWD/gnupg
gpg --batch --quiet --pinentry-mode loopback --passphrase '' --quick-generate-key fleet@example.org ed25519 sign never
gpgconf --kill all
"#;
