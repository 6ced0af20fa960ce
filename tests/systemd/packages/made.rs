//! Makes the packages, once a run: a directory to be laid over a container's Debian.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::kit::build;
use crate::release::{Bad, bad_release};
use crate::tree;

/// Real builds, from the oldest to the newest.
pub const VERSIONS: [&str; 3] = ["1.0.0", "2.0.0", "3.0.0"];

/// A package of a program that passes its pre-flight and then ends with 3.
pub const BAD: &str = "4.0.0";

/// The layer's directory, until it is dropped.
pub struct Packages(tempfile::TempDir);

/// A deb in the container.
pub fn deb(version: &str) -> String {
    format!("{}/handover_{version}-1_amd64.deb", place(version))
}

/// An rpm in the container.
pub fn rpm(package: &str, version: &str) -> String {
    format!("{}/{package}-{version}-1.x86_64.rpm", place(version))
}

/// The bad one apart: apt takes the newest.
fn place(version: &str) -> &'static str {
    if version == BAD {
        "/opt/bad"
    } else {
        "/opt/packages"
    }
}

/// A deb as this machine sees it, in the layer.
pub fn deb_in(layer: &Path, version: &str) -> PathBuf {
    layer.join(&deb(version)[1..])
}

/// What packages are made with, or why there is nothing to make them with.
pub fn able() -> Result<(), String> {
    for (tool, how) in [
        ("cargo-deb", "cargo install --locked cargo-deb@3.8.0"),
        (
            "cargo-generate-rpm",
            "cargo install --locked cargo-generate-rpm@0.21.1",
        ),
        ("dpkg-scanpackages", "apt-get install dpkg-dev"),
    ] {
        if self::tool(tool).is_none() {
            return Err(format!("{tool} is missing ({how})"));
        }
    }
    Ok(())
}

impl Packages {
    /// Panics when one cannot be made.
    pub fn make() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let packages = Self(dir);
        for version in VERSIONS {
            let program = packages.target("handover", version);
            strip(&build::other_version(version), &program);
            packages.cargo_deb("handover", version);
            packages.cargo_generate_rpm("handover", ".", version);
            let program = packages.target("greeter", version);
            strip(
                &build::other_version_of("greeter", "greeter", version),
                &program,
            );
            packages.cargo_deb("greeter", version);
            packages.cargo_generate_rpm("greeter", "examples/greeter", version);
        }
        let program = packages.target("handover", BAD);
        fs::write(&program, bad_release(Bad::Exits3).expect("a bad release")).expect("written");
        ran(Command::new("chmod").arg("755").arg(&program));
        packages.cargo_deb("handover", BAD);
        packages.cargo_generate_rpm("handover", ".", BAD);
        let index = ran(Command::new("dpkg-scanpackages")
            .args(["--multiversion", "."])
            .current_dir(packages.inside("/opt/packages")));
        fs::write(packages.inside("/opt/packages/Packages"), index).expect("an index");
        packages
    }

    /// To lay over a tree.
    pub fn layer(&self) -> &Path {
        self.0.path()
    }

    /// A crate of this workspace: its name, and where it is.
    fn cargo_generate_rpm(&self, package: &str, at: &str, version: &str) {
        let out = self.inside(place(version));
        ran(
            Command::new(tool("cargo-generate-rpm").expect("it is there"))
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .args(["--package", at, "--output"])
                .arg(out)
                .args(["--payload-compress", "none", "--set-metadata"])
                .arg(format!("version = \"{version}\""))
                .env("CARGO_TARGET_DIR", self.target_dir(package, version)),
        );
    }

    /// The program is built already: only what is packaged is taken from this directory.
    fn cargo_deb(&self, package: &str, version: &str) {
        let out = self.inside(place(version));
        fs::create_dir_all(&out).expect("a directory");
        ran(Command::new(tool("cargo-deb").expect("it is there"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["deb", "--no-build", "--no-strip", "--fast", "--locked"])
            .args([
                "--package",
                package,
                "--deb-version",
                &format!("{version}-1"),
            ])
            .arg("--output")
            .arg(out)
            .env("CARGO_TARGET_DIR", self.target_dir(package, version)));
    }

    /// Where cargo would have put the program.
    fn target(&self, program: &str, version: &str) -> PathBuf {
        let dir = self.target_dir(program, version).join("release");
        fs::create_dir_all(&dir).expect("a directory");
        dir.join(program)
    }

    fn target_dir(&self, program: &str, version: &str) -> PathBuf {
        self.inside(&format!("/opt/targets/{program}-{version}"))
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.0.path().join(&path[1..])
    }
}

fn strip(program: &Path, to: &Path) {
    ran(Command::new("strip").arg("-o").args([to, program]));
}

/// Its standard output. Panics unless it ended with 0.
fn ran(command: &mut Command) -> Vec<u8> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    out.stdout
}

/// In the cache, where `.ci/run` installs them, or on the path.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(tree::cache().join("tools/bin"))
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
