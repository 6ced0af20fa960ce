//! Programs to run: the one cargo built for this test, and real builds of other versions.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use rustix::fs::FlockOperation;

/// The version that the program under test was built with.
pub fn own_version() -> &'static str {
    option_env!("HANDOVER_VERSION").unwrap_or(env!("CARGO_PKG_VERSION"))
}

/// The program under test.
pub fn own() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_handover"))
}

/// An example, as `cargo test` builds it.
pub fn example(name: &str) -> PathBuf {
    let path = own().with_file_name("examples").join(name);
    assert!(
        path.exists(),
        "no {}; is there an example {name}, and was it built?",
        path.display()
    );
    path
}

/// The same program as another build: its build id differs, and nothing else.
pub fn twin(image: &Path) -> PathBuf {
    // In front of a GNU build id of 20 bytes: the lengths of its name and itself, its type, its name
    // (elf(5), notes).
    const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let mut bytes = std::fs::read(image).expect("the program");
    let note = memchr::memmem::find(&bytes, NOTE).expect("a build id");
    bytes[note + NOTE.len()] ^= 0xff;
    let twins = image.with_file_name("twins");
    std::fs::create_dir_all(&twins).expect("a directory for twins");
    let path = twins.join(image.file_name().expect("a program's name"));
    // Tests of one program are threads of one process.
    let who = (std::process::id(), std::thread::current().id());
    let new = path.with_extension(format!("{who:?}"));
    std::fs::write(&new, bytes).expect("room for a twin");
    std::fs::rename(&new, &path).expect("a rename");
    path
}

/// `handover`, built with another `HANDOVER_VERSION`.
pub fn other_version(version: &str) -> PathBuf {
    build(&["--bin", "handover"], "handover", version)
}

/// An example, built with another `HANDOVER_VERSION`.
pub fn other_version_of_example(name: &str, version: &str) -> PathBuf {
    build(&["--example", name], &format!("examples/{name}"), version)
}

/// The program of another package of this workspace, built with another `HANDOVER_VERSION`.
pub fn other_version_of(package: &str, program: &str, version: &str) -> PathBuf {
    build(&["--package", package, "--bin", program], program, version)
}

/// The library knows no version: it is compiled once, and each version costs a link. Each has a target
/// directory of its own, and lends the intermediate files from the directory of the tests
/// (`build.build-dir`, cargo 1.91); an older cargo compiles everything once a version. Later calls cost
/// a tenth of a second: cargo itself decides whether the program is still fresh.
fn build(what: &[&str], artifact: &str, version: &str) -> PathBuf {
    static BUILT: Mutex<Option<HashMap<(String, String), PathBuf>>> = Mutex::new(None);

    let key = (artifact.to_owned(), version.to_owned());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let built = built.get_or_insert_default();
    if let Some(path) = built.get(&key) {
        return path.clone();
    }

    let own = own();
    let profile_dir = own.parent().expect("the program is in a directory");
    let target = profile_dir.parent().expect("a target directory");
    let profile_name = profile_dir.file_name().expect("debug or release");
    let release = profile_name == "release";
    let versions = target.join("versions");
    let own_target = versions.join(version);
    std::fs::create_dir_all(&own_target).expect("a directory for the version");
    let _lock = lock(&versions.join("lock"));

    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["rustc", "--quiet", "--frozen"])
        .args(what)
        .arg("--target-dir")
        .arg(&own_target)
        .env("CARGO_BUILD_BUILD_DIR", target);
    if release {
        cargo.arg("--release");
    }
    // An argument of no consequence makes cargo keep the files of each version apart.
    cargo.args(["--", "--cfg"]);
    cargo.arg(format!(
        "version_{}",
        version.replace(['.', '-', '~', '+'], "_")
    ));
    // What `cargo test` sets for us is not the environment of an ordinary build.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&*name);
        }
    }
    cargo.env_remove("LD_LIBRARY_PATH");
    cargo.env("HANDOVER_VERSION", version);
    let output = cargo.output().expect("cargo runs");
    assert!(
        output.status.success(),
        "cannot build version {version}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let path = own_target.join(profile_name).join(artifact);
    assert!(path.exists(), "cargo made no {}", path.display());
    built.insert(key, path.clone());
    path
}

/// Held until it is dropped.
pub fn lock(path: &Path) -> std::fs::File {
    let file = std::fs::File::create(path).expect("a lock file");
    rustix::fs::flock(&file, FlockOperation::LockExclusive).expect("a lock");
    file
}
