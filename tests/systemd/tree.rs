//! Debian trees to boot: one a suite, built once by debootstrap and cached outside the clone.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};

/// What is booted. Each one has another systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12: systemd 252.
    Bookworm,
    /// Debian 13: systemd 257.
    Trixie,
    /// The newest: systemd 262.
    Forky,
}

impl Suite {
    /// From the oldest to the newest.
    pub const ALL: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::Forky];

    /// Debian's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }

    /// The systemd in it, at least.
    pub fn systemd(self) -> u32 {
        match self {
            Self::Bookworm => 252,
            Self::Trixie => 257,
            Self::Forky => 262,
        }
    }

    /// The tree, built now when the cache has none; the error says why there is none.
    pub fn tree(self) -> Result<&'static Path, Missing> {
        static TREES: [OnceLock<Result<PathBuf, Missing>>; 3] =
            [OnceLock::new(), OnceLock::new(), OnceLock::new()];
        match TREES[self as usize].get_or_init(|| able().and_then(|()| self.build())) {
            Ok(tree) => Ok(tree),
            Err(missing) => Err(missing.clone()),
        }
    }

    /// The same with the tools of other packagers, which not every story needs.
    pub fn tree_with_tools(self) -> Result<&'static Path, Missing> {
        static TREES: [OnceLock<Result<PathBuf, Missing>>; 3] =
            [OnceLock::new(), OnceLock::new(), OnceLock::new()];
        match TREES[self as usize].get_or_init(|| self.with("tools", TOOLS)) {
            Ok(tree) => Ok(tree),
            Err(missing) => Err(missing.clone()),
        }
    }

    /// The same with what people run applications with.
    pub fn tree_with_apps(self) -> Result<&'static Path, Missing> {
        static TREES: [OnceLock<Result<PathBuf, Missing>>; 3] =
            [OnceLock::new(), OnceLock::new(), OnceLock::new()];
        match TREES[self as usize].get_or_init(|| self.with("apps", APPS)) {
            Ok(tree) => Ok(tree),
            Err(missing) => Err(missing.clone()),
        }
    }

    fn with(self, what: &str, packages: &str) -> Result<PathBuf, Missing> {
        let tree = self.tree()?;
        let name = format!("{}-{what}", self.name());
        cached(&name, packages, |new| self.add(packages, tree, new))
    }

    /// Both: from packages of the other kind people run applications, too.
    pub fn tree_with_apps_and_rpm(self) -> Result<&'static Path, Missing> {
        static TREES: [OnceLock<Result<PathBuf, Missing>>; 3] =
            [OnceLock::new(), OnceLock::new(), OnceLock::new()];
        let make = || self.with("apps-rpm", &format!("{APPS} rpm"));
        match TREES[self as usize].get_or_init(make) {
            Ok(tree) => Ok(tree),
            Err(missing) => Err(missing.clone()),
        }
    }

    /// The same as a host that is managed over the network.
    pub fn tree_of_fleet(self) -> Result<PathBuf, Missing> {
        self.with("fleet", FLEET)
    }

    fn build(self) -> Result<PathBuf, Missing> {
        cached(self.name(), PACKAGES, |new| self.debootstrap(new))
    }

    fn add(self, packages: &str, tree: &Path, new: &Path) -> Result<(), Missing> {
        let out = Command::new("sh")
            .args(["-euc", ADD])
            .args([tree.as_os_str(), new.as_os_str(), packages.as_ref()])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| Missing(format!("cannot run sh: {e}")))?;
        if out.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&out.stderr);
        Err(Missing(format!(
            "cannot install {packages} into a tree of {}: {said}",
            self.name()
        )))
    }

    fn debootstrap(self, tree: &Path) -> Result<(), Missing> {
        let mut command = Command::new("debootstrap");
        command
            .arg("--variant=minbase")
            .arg(format!("--include={PACKAGES}"))
            .arg(self.name())
            .arg(tree)
            .arg(mirror()?)
            // An older debootstrap has no script of a newer suite's name; unstable's does for all.
            .arg("/usr/share/debootstrap/scripts/sid")
            // Packages' start of services would be the machine's business, not the tree's.
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        let out = command
            .output()
            .map_err(|e| Missing(format!("cannot run debootstrap: {e}")))?;
        if out.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&out.stdout);
        let last = said.lines().last().unwrap_or("it said nothing");
        Err(Missing(format!(
            "debootstrap {} failed ({}): {last}",
            self.name(),
            out.status
        )))
    }
}

/// The tree of this name in the cache, made by `make` when it is not there or not of `contents`.
fn cached(
    name: &str,
    contents: &str,
    make: impl FnOnce(&Path) -> Result<(), Missing>,
) -> Result<PathBuf, Missing> {
    let cannot = |what: &str, e: &dyn fmt::Display| Missing(format!("{what}: {e}"));
    let trees = cache().join("trees");
    fs::create_dir_all(&trees).map_err(|e| cannot("no cache for Debian trees", &e))?;
    let tree = trees.join(name);
    // Whoever comes second finds the tree of the first.
    let lock = File::create(trees.join(format!("{name}.lock")))
        .and_then(|file| Ok(flock(&file, FlockOperation::LockExclusive).map(|()| file)?))
        .map_err(|e| cannot("cannot lock the cache of Debian trees", &e))?;
    let stamp = tree.join("handover-tree");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == contents) {
        return Ok(tree);
    }
    let new = trees.join(format!("{name}.new"));
    for stale in [&tree, &new] {
        match fs::remove_dir_all(stale) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(cannot("cannot remove a stale Debian tree", &e));
            }
            _ => {}
        }
    }
    make(&new)?;
    fs::write(new.join("handover-tree"), contents)
        .and_then(|()| fs::rename(&new, &tree))
        .map_err(|e| cannot("cannot keep the Debian tree", &e))?;
    drop(lock);
    Ok(tree)
}

/// Why a story cannot be told on this machine.
#[derive(Debug, Clone)]
pub struct Missing(pub String);

impl std::error::Error for Missing {}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What this machine needs to boot a container: root, nspawn and friends.
pub fn able() -> Result<(), Missing> {
    if !rustix::process::geteuid().is_root() {
        return Err(Missing("needs root, to boot a container".into()));
    }
    for (tool, package) in [
        ("systemd-nspawn", "systemd-container"),
        ("debootstrap", "debootstrap"),
        ("nsenter", "util-linux"),
        ("setpriv", "util-linux"),
        ("unshare", "util-linux"),
    ] {
        if !on_path(tool) {
            return Err(Missing(format!(
                "{tool} is missing (apt-get install {package})"
            )));
        }
    }
    let tried = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-euc", MOUNTS])
        .stdin(Stdio::null())
        .output();
    match tried {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(Missing(format!(
            "cannot mount what a container needs: {}",
            String::from_utf8_lossy(&out.stderr).trim_end()
        ))),
        Err(e) => Err(Missing(format!("cannot run unshare: {e}"))),
    }
}

/// In a mount namespace of its own: what a container's disk and cgroup are made of.
const MOUNTS: &str = "
mount -t tmpfs tmpfs /mnt
mkdir /mnt/lower /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
mount -t cgroup2 cgroup2 /sys/fs/cgroup
";

/// Where trees are kept between runs.
pub fn cache() -> PathBuf {
    std::env::var_os("HANDOVER_TEST_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/handover-ci"), PathBuf::from)
}

/// Besides Debian's minimal system.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,curl,procps";

/// For packages of the other kind, and for what looks after a machine.
const TOOLS: &str = "rpm needrestart unattended-upgrades logrotate";

/// For hosted applications.
const APPS: &str = "python3 python3-flask gunicorn python3-fastapi uvicorn nodejs node-express \
                    ruby ruby-sinatra puma";

/// For Ansible, over ssh.
const FLEET: &str = "openssh-server python3 python3-apt";

/// A copy of TREE (which may be a link to one) at NEW with PACKAGES in it, by this machine's network.
const ADD: &str = r#"
tree=$0 new=$1 packages=$2
mkdir "$new"
cp -a "$tree/." "$new/"
cp -L /etc/resolv.conf "$new/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$new/usr/sbin/policy-rc.d"
chmod 755 "$new/usr/sbin/policy-rc.d"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
# A mirror of a moving suite may be behind.
chroot "$new" apt-get -q -o Acquire::Check-Valid-Until=false update
chroot "$new" apt-get -qy --no-install-recommends install $packages
chroot "$new" apt-get clean
rm -rf "$new/usr/sbin/policy-rc.d" "$new/etc/resolv.conf" "$new"/var/lib/apt/lists/*
"#;

/// Where this machine's own apt gets Debian from, whatever its configuration looks like.
fn mirror() -> Result<String, Missing> {
    let none = |why: &str| Missing(format!("no Debian mirror: {why}"));
    let out = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)"])
        .args(["Created-By: Packages", "Origin: Debian"])
        .output()
        .map_err(|e| none(&format!("cannot run apt-get: {e}")))?;
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .find(|uri| uri.trim_end_matches('/').ends_with("/debian"))
        .map(str::to_owned)
        .ok_or_else(|| none("apt's configuration names none (is it a Debian? apt-get update)"))
}

fn on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .any(|dir| dir.join(tool).is_file())
}
