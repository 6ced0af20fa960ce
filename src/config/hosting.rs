//! What the types of `[app]` cannot say: its directory and program are there, its files can be
//! read, its paths can be asked for.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::env_file::open_file;
use super::error::Problem;
use super::merge::Step;
use super::validate::{DAY, Invalid, MOMENT, at, health, number, site_root, time, unless};
use super::{App, Listens, Site, Size, read_env_file};

/// Why what is in the directory now cannot be started, or the site not be served from it.
pub(super) fn release(app: &App, site: &Site) -> Result<(), Invalid> {
    at(&["app", "directory"], directory(&app.directory))?;
    at(&["app", "command"], program(app))?;
    match (&site.at, &site.root) {
        // An absolute one is no part of the release.
        (Some(_), Some(root)) if root.is_relative() => {
            at(&["site", "root"], site_root(&led_to(app).join(root)))
        }
        _ => Ok(()),
    }
}

/// Whether a site is beside an application as it should be.
pub(super) fn site(site: &Site, app: Option<&App>) -> Result<(), Invalid> {
    let Some(path) = &site.at else {
        let is_served = site.root.is_none() || app.is_none();
        return at(
            &["site", "root"],
            unless(is_served, || Problem::SiteWithoutAt),
        );
    };
    let key = &["site", "at"];
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain);
    let fits = path
        .strip_prefix('/')
        .is_some_and(|rest| rest.split('/').all(part));
    at(key, unless(fits, || Problem::SiteAt(path.clone())))?;
    let (Some(root), Some(_)) = (&site.root, app) else {
        return at(key, Err(Problem::SiteAtAlone));
    };
    // All of the release has its source and its settings, too.
    let mut parts = root.components();
    let inside = parts.clone().all(|part| part != Component::ParentDir)
        && parts.any(|part| matches!(part, Component::Normal(_)));
    let inside = inside || root.is_absolute();
    at(
        &["site", "root"],
        unless(inside, || Problem::SiteOutside(root.clone())),
    )
}

/// The same in words.
#[must_use]
pub fn release_fault(app: &App, site: &Site) -> Option<String> {
    release(app, site)
        .err()
        .map(|invalid| invalid.problem.to_string())
}

/// The first problem there is. Looks at the disk for everything that it names but the release.
pub(super) fn validate(app: &App) -> Result<(), Invalid> {
    at(&["app", "directory"], name(&app.directory))?;
    at(&["app", "command"], command(app).map(drop))?;
    at(&["app", "command"], place(app))?;
    for (n, file) in app.env_files.iter().enumerate() {
        let readable = read_env_file(file).map(drop);
        entry(
            "env_files",
            n,
            readable.map_err(|why| Problem::EnvFile {
                path: file.clone(),
                why,
            }),
        )?;
    }
    if let Some(path) = &app.ready {
        at(&["app", "ready"], health(path))?;
    }
    for (n, path) in app.warmup.iter().enumerate() {
        entry("warmup", n, health(path))?;
    }
    at(
        &["app", "instances"],
        number(app.instances, 1..=INSTANCES_MAX),
    )?;
    if let Some(memory) = app.memory {
        let least = memory >= MEMORY_MIN;
        at(
            &["app", "memory"],
            unless(least, || Problem::Memory(memory, MEMORY_MIN)),
        )?;
    }
    at(&["app", "stop_signal"], signal(&app.stop_signal).map(drop))?;
    for (key, found, least) in [
        ("stop_timeout", app.stop_timeout, Duration::ZERO),
        ("connect_timeout", app.connect_timeout, MOMENT),
        ("answer_timeout", app.answer_timeout, MOMENT),
        ("stall_timeout", app.stall_timeout, MOMENT),
        ("tunnel_timeout", app.tunnel_timeout, MOMENT),
        ("idle_timeout", app.idle_timeout, Duration::ZERO),
    ] {
        at(&["app", key], time(found, least..=DAY))?;
    }
    Ok(())
}

/// What asks a program to leave, by its name without `SIG`.
pub(super) fn signal(name: &str) -> Result<Signal, Problem> {
    const ASKS: [&str; 7] = ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH"];
    let known = ASKS
        .contains(&name)
        .then(|| format!("SIG{name}").parse().ok());
    known.flatten().ok_or_else(|| Problem::Signal(name.into()))
}

fn entry(key: &'static str, n: usize, result: Result<(), Problem>) -> Result<(), Invalid> {
    result.map_err(|problem| Invalid {
        way: vec![Step::Key("app"), Step::Key(key), Step::Entry(n)],
        problem,
    })
}

fn name(path: &Path) -> Result<(), Problem> {
    unless(!path.as_os_str().is_empty(), || Problem::NoDirectory)?;
    unless(path.to_str().is_some(), || Problem::NotUtf8(path.into()))
}

fn directory(path: &Path) -> Result<(), Problem> {
    // Asked for with a dot at its end: that takes the permission that running in it takes.
    fs::metadata(path.join("."))
        .map(drop)
        .map_err(|error| Problem::Release {
            path: path.into(),
            why: error.kind(),
        })
}

fn command(app: &App) -> Result<&str, Problem> {
    let program = app.command.first().filter(|word| !word.is_empty());
    program.map(String::as_str).ok_or(Problem::NoCommand)
}

/// One place, and one that the program can know.
fn place(app: &App) -> Result<(), Problem> {
    let listens = app.listens();
    let [mut wanted, mut other] = [None; 2];
    for (place, word) in Listens::ALL {
        if place == listens {
            wanted = Some(word);
        } else if app.named().any(|(named, _)| named == place) {
            other = Some(word);
        }
    }
    if let (Some(other), Some(wanted)) = (other, wanted) {
        return Err(Problem::TwoPlaces(other, wanted));
    }
    let told = listens != Listens::Socket || app.named().next().is_some();
    unless(told, || Problem::NoSocket)?;
    let mut words = app.command.iter();
    let unknown = words.find_map(|word| place_of_nobody(word));
    let unknown = unknown.filter(|_| app.listen.is_none() && app.named().next().is_none());
    match unknown {
        Some(unknown) => Err(Problem::NoPlace(unknown.into())),
        None => Ok(()),
    }
}

/// What stands where one of our words would, in braces, and is none of them. Others have braces, too: awk,
/// shells, formats of logs.
fn place_of_nobody(word: &str) -> Option<&str> {
    let begin = word.rfind('{')?;
    let (before, named) = word.split_at(begin);
    let name = named.strip_prefix('{')?.strip_suffix('}')?;
    let letters = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase());
    let alone = before.is_empty() || before.ends_with([':', '=', '/', '@']);
    (letters && alone).then_some(named)
}

/// The release itself: whoever reads of a missing file may find the link elsewhere.
fn led_to(app: &App) -> PathBuf {
    let end = app.directory.canonicalize();
    end.unwrap_or_else(|_| app.directory.clone())
}

fn program(app: &App) -> Result<(), Problem> {
    let program = command(app)?;
    // Others are looked for in PATH, which only the start knows.
    if program.contains('/') {
        let path = led_to(app).join(program);
        runnable(&path).map_err(|why| Problem::Program { path, why })?;
    }
    Ok(())
}

/// Whether it can be executed, and the interpreter that its first line names is there: a copied
/// virtual environment names one of another place.
fn runnable(path: &Path) -> Result<(), String> {
    let words = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        _ => e.to_string(),
    };
    let metadata = fs::metadata(path).map_err(words)?;
    if !metadata.is_file() {
        return Err("it is not a file".into());
    }
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK)
        .map_err(|_| "it is not executable (`chmod +x`)".to_owned())?;
    let Some(line) = first_line(path) else {
        return Ok(());
    };
    if line.ends_with('\r') {
        return Err(
            "its first line ends with CR LF, as on Windows, and so names no interpreter \
                    that there is (`sed -i 's/\\r$//'` mends it)"
                .into(),
        );
    }
    let Some(interpreter) = line.split_whitespace().next() else {
        return Ok(());
    };
    fs::metadata(interpreter)
        .map(drop)
        .map_err(|_| format!("its interpreter {interpreter} is not there"))
}

/// Of a script: its interpreter and what that is given.
fn first_line(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut start = [0; 256];
    let read = open_file(path).ok()?.read(&mut start).ok()?;
    let line = start[..read]
        .strip_prefix(b"#!")?
        .split(|b| *b == b'\n')
        .next()?;
    Some(std::str::from_utf8(line).ok()?.to_owned())
}

const INSTANCES_MAX: u64 = 256;

/// No interpreter starts with less.
const MEMORY_MIN: Size = Size(4 << 20);
