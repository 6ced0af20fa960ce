//! What the types cannot say: ranges, names, addresses, the site's directory.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use super::address::{Address, AddressError};
use super::error::{FDNAME_MAX, NAME_MAX, Problem};
use super::hosting;
use super::merge::Step;
use super::{Config, ListenerConfig, Room, Site, Workers};

/// A problem and the way to the value that has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    pub(super) way: Vec<Step>,
    pub(super) problem: Problem,
}

impl Invalid {
    /// The way as an operator names it: `listener.address`.
    pub(super) fn key(&self) -> String {
        let keys = self.way.iter().filter_map(|step| match step {
            Step::Key(key) => Some(*key),
            Step::Entry(_) => None,
        });
        keys.collect::<Vec<_>>().join(".")
    }
}

/// Whether this program has what is asked for.
fn built(config: &Config) -> Result<(), Invalid> {
    let asked: [(&[&'static str], _, _, _, _); 3] = [
        (
            &["app"],
            config.app.is_some(),
            "hosting",
            "daemon",
            cfg!(feature = "daemon"),
        ),
        (
            &["site"],
            config.site != Site::default(),
            "a site",
            "daemon",
            cfg!(feature = "daemon"),
        ),
        (
            &["http", "http2"],
            config.http.http2,
            "HTTP/2",
            "http2",
            cfg!(feature = "http2"),
        ),
    ];
    let missing = asked
        .into_iter()
        .find(|(_, asked, .., built)| *asked && !built);
    missing.map_or(Ok(()), |(key, _, what, feature, _)| {
        at(key, Err(not_built(what, feature)))
    })
}

fn not_built(what: &'static str, feature: &'static str) -> Problem {
    Problem::NotBuilt { what, feature }
}

/// The first problem there is. Looks at the disk for the site's directory.
pub(super) fn validate(config: &Config, datagrams: &[String], room: Room) -> Result<(), Invalid> {
    at(&["name"], service_name(&config.name))?;
    built(config)?;
    if let Workers::Count(n) = config.workers {
        at(&["workers"], number(n, 1..=PROCESSES_MAX))?;
    }
    at(&["threads"], number(config.threads, 1..=PROCESSES_MAX))?;
    let trusts_somebody = !config.http.trusted_proxies.is_empty();
    listeners(&config.listeners, datagrams, trusts_somebody)?;
    at(&["listener"], room_for(config.listeners.len(), room))?;
    hosting::site(&config.site, config.app.as_ref())?;
    if let Some(root) = &config.site.root {
        // Else it is in the release, and looked at with it.
        if config.site.at.is_none() || root.is_absolute() {
            at(&["site", "root"], site_root(root))?;
        }
    }
    if let Some(app) = &config.app {
        hosting::validate(app)?;
    }
    let http = &config.http;
    let header = time(http.header_timeout, MOMENT..=DAY);
    at(&["http", "header_timeout"], header)?;
    let body = time(http.body_timeout, MOMENT..=DAY);
    at(&["http", "body_timeout"], body)?;
    let send = time(http.send_timeout, MOMENT..=DAY);
    at(&["http", "send_timeout"], send)?;
    let keepalive = time(http.keepalive_timeout, MOMENT..=DAY);
    at(&["http", "keepalive_timeout"], keepalive)?;
    let connections = number(http.max_connections, 0..=CONNECTIONS_MAX);
    at(&["http", "max_connections"], connections)?;
    let streams = number(http.max_streams, 1..=STREAMS_MAX);
    at(&["http", "max_streams"], streams)?;
    let upgrade = &config.upgrade;
    let start = time(upgrade.start_timeout, MOMENT..=DAY);
    at(&["upgrade", "start_timeout"], start)?;
    let probation = time(upgrade.probation, Duration::ZERO..=MONTH);
    at(&["upgrade", "probation"], probation)?;
    if let Some(path) = &upgrade.health {
        at(&["upgrade", "health"], health(path))?;
    }
    let drain = &config.drain;
    let timeout = time(drain.timeout, Duration::ZERO..=MONTH);
    at(&["drain", "timeout"], timeout)?;
    let stop = time(drain.stop_timeout, Duration::ZERO..=DAY);
    at(&["drain", "stop_timeout"], stop)?;
    let generations = number(drain.generations, 1..=GENERATIONS_MAX);
    at(&["drain", "generations"], generations)?;
    at(&["log", "level"], level(&config.log.level))?;
    at(&["log", "access"], access(&config.log.access))?;
    if !config.control.group.is_empty() {
        at(&["control", "group"], known_group(&config.control.group))?;
    }
    if !config.metrics.address.is_empty() {
        at(
            &["metrics", "address"],
            stream_address(&config.metrics.address).map(drop),
        )?;
    }
    Ok(())
}

/// Whether files and units can be named after it.
pub(super) fn service_name(name: &str) -> Result<(), Problem> {
    let fits = (1..=NAME_MAX).contains(&name.len())
        && !name.starts_with(['-', '.'])
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b));
    unless(fits, || Problem::Name(name.into()))
}

fn listeners(
    listeners: &[ListenerConfig],
    datagrams: &[String],
    trusts_somebody: bool,
) -> Result<(), Invalid> {
    let mut seen: HashMap<Address, &str> = HashMap::new();
    let mut left_out = Vec::new();
    for (n, listener) in listeners.iter().enumerate() {
        let invalid = |key, problem| Invalid {
            way: vec![Step::Key("listener"), Step::Entry(n), Step::Key(key)],
            problem,
        };
        let name = &listener.name;
        listener_name(name).map_err(|p| invalid("name", p))?;
        let parse = if datagrams.contains(name) {
            address
        } else {
            stream_address
        };
        let parsed = listener.address.as_deref().map(parse).transpose();
        let parsed = parsed.map_err(|p| invalid("address", p))?;

        if !matches!(parsed, Some(Address::Unix(_))) {
            let refused = |key| Err(invalid(key, Problem::NotAUnixSocket));
            listener.mode.as_ref().map_or(Ok(()), |_| refused("mode"))?;
            listener
                .group
                .as_ref()
                .map_or(Ok(()), |_| refused("group"))?;
        }
        if let Some(text) = &listener.mode {
            mode(text).map_err(|p| invalid("mode", p))?;
        }
        if let Some(name) = &listener.group {
            group(name).map_err(|p| invalid("group", p))?;
        }
        if let Some(backlog) = listener.backlog {
            number(backlog, 1..=BACKLOG_MAX).map_err(|p| invalid("backlog", p))?;
        }

        let datagrams = matches!(
            parsed,
            Some(Address::Udp(_) | Address::Host { udp: true, .. })
        );
        if listener.tls && !cfg!(feature = "tls") {
            return Err(invalid("tls", not_built("TLS", "tls")));
        }
        if listener.tls && datagrams {
            return Err(invalid("tls", Problem::TlsOverUdp));
        }
        if listener.proxy_protocol {
            let wrong = match (datagrams, trusts_somebody) {
                (true, _) => Some(Problem::ProxyProtocolOverUdp),
                (false, false) => Some(Problem::NoTrustedProxy),
                (false, true) => None,
            };
            wrong.map_or(Ok(()), |problem| Err(invalid("proxy_protocol", problem)))?;
        }
        if listener.redirect.is_some() {
            let has_tls = listeners.iter().any(|other| other.tls);
            let wrong = match (listener.tls, has_tls) {
                (true, _) => Some(Problem::RedirectOfTls),
                (false, false) => Some(Problem::NoTlsListener),
                (false, true) => None,
            };
            wrong.map_or(Ok(()), |problem| Err(invalid("redirect", problem)))?;
        }

        let mut same = listeners.iter().take(n).filter(|other| other.name == *name);
        let kind = |l: &ListenerConfig| (l.tls, l.proxy_protocol, l.redirect);
        if same.any(|other| kind(other) != kind(listener)) {
            return Err(invalid("name", Problem::TwoKinds(name.clone())));
        }

        let Some(parsed) = parsed else {
            if left_out.contains(&name) {
                return Err(invalid("name", Problem::DuplicateName(name.clone())));
            }
            left_out.push(name);
            continue;
        };
        // Port 0 is another one every time.
        let any_port = match &parsed {
            Address::Tcp(address) | Address::Udp(address) => address.port() == 0,
            Address::Host { port, .. } => *port == 0,
            Address::Unix(_) | Address::Abstract(_) => false,
        };
        let address = parsed.to_string();
        if let Some(first) = seen.insert(parsed, name).filter(|_| !any_port) {
            let problem = Problem::DuplicateAddress {
                address,
                first: first.into(),
                second: name.clone(),
            };
            return Err(invalid("address", problem));
        }
    }
    Ok(())
}

/// Whether so many listeners can be opened, handed over, and passed again by systemd.
fn room_for(listeners: usize, room: Room) -> Result<(), Problem> {
    let found = u64::try_from(listeners).unwrap_or(u64::MAX);
    if room.systemd && found > SYSTEMD_PASSES {
        return Err(Problem::TooManyForSystemd {
            found,
            most: SYSTEMD_PASSES,
        });
    }
    // A reload holds each of them twice.
    match room.files {
        Some(files) if found * 2 + FILES_ELSE > files => Err(Problem::TooManyForFiles {
            found,
            needed: found * 2 + FILES_ELSE,
            files,
        }),
        _ => Ok(()),
    }
}

/// systemd's `fdname_is_valid()`, and none of our own marks.
fn listener_name(name: &str) -> Result<(), Problem> {
    let fits = (1..=FDNAME_MAX).contains(&name.len())
        && name.bytes().all(|b| (b' '..0x7f).contains(&b) && b != b':')
        && !name.starts_with("own.");
    unless(fits, || Problem::ListenerName(name.into()))
}

fn address(text: &str) -> Result<Address, Problem> {
    text.parse()
        .map_err(|why| Problem::Address(text.into(), why))
}

/// Where HTTP is spoken.
fn stream_address(text: &str) -> Result<Address, Problem> {
    match address(text)? {
        Address::Udp(_) | Address::Host { udp: true, .. } => {
            Err(Problem::Address(text.into(), AddressError::Datagrams))
        }
        address => Ok(address),
    }
}

fn mode(text: &str) -> Result<(), Problem> {
    let octal = (3..=4).contains(&text.len())
        && text.bytes().all(|b| (b'0'..=b'7').contains(&b))
        && (text.len() == 3 || text.starts_with('0'));
    unless(octal, || Problem::Mode(text.into()))
}

/// A group that is there: whoever may give orders is known before the first order comes.
fn known_group(name: &str) -> Result<(), Problem> {
    group(name)?;
    match nix::unistd::Group::from_name(name) {
        Ok(None) => Err(Problem::NoSuchGroup(name.into())),
        // A directory server that cannot be asked now makes no configuration wrong.
        Ok(Some(_)) | Err(_) => Ok(()),
    }
}

/// What no tool would make a group of; whether there is one is found out where it is used.
fn group(name: &str) -> Result<(), Problem> {
    let fits = !name.is_empty()
        && !name
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || ":,/".contains(c));
    unless(fits, || Problem::Group(name.into()))
}

/// Asked for with a dot at its end: that takes the permission that serving its files takes.
pub(super) fn site_root(root: &Path) -> Result<(), Problem> {
    unless(root.to_str().is_some(), || Problem::NotUtf8(root.into()))?;
    fs::metadata(root.join("."))
        .map(drop)
        .map_err(|error| Problem::Root {
            path: root.into(),
            why: error.kind(),
        })
}

pub(super) fn health(path: &str) -> Result<(), Problem> {
    let fits = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    unless(fits, || Problem::Health(path.into()))
}

fn level(level: &str) -> Result<(), Problem> {
    let known = ["error", "warn", "info", "debug", "trace"].contains(&level);
    unless(known, || Problem::Level(level.into()))
}

fn access(access: &str) -> Result<(), Problem> {
    let fits = access == "off" || access.starts_with('/') && !access.ends_with('/');
    let readable = !access.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER);
    unless(fits && readable, || Problem::Access(access.into()))?;
    if access == "off" {
        return Ok(());
    }
    appendable(Path::new(access)).map_err(|why| Problem::Unwritable {
        path: access.into(),
        why,
    })
}

/// Whether lines can be added to it. It is not made: `check` may be run by somebody else than the
/// service, which could not write to that one's file then.
fn appendable(path: &Path) -> Result<(), String> {
    let said = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => "there is no such directory".into(),
        kind => kind.to_string(),
    };
    match fs::metadata(path) {
        Ok(there) => {
            let kind = there.file_type();
            if !kind.is_file() && !kind.is_char_device() {
                return Err("it is not a file".into());
            }
            let opened = fs::OpenOptions::new().append(true).open(path);
            opened.map(drop).map_err(said)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().unwrap_or(path);
            let rights = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
            rustix::fs::access(parent, rights).map_err(|e| said(e.into()))
        }
        Err(e) => Err(said(e)),
    }
}

pub(super) fn number<N: TryInto<u64>>(found: N, range: RangeInclusive<u64>) -> Result<(), Problem> {
    let found = found.try_into().unwrap_or(u64::MAX);
    unless(range.contains(&found), || Problem::Number {
        found,
        least: *range.start(),
        most: *range.end(),
    })
}

pub(super) fn time(found: Duration, range: RangeInclusive<Duration>) -> Result<(), Problem> {
    unless(range.contains(&found), || Problem::Time {
        found,
        least: *range.start(),
        most: *range.end(),
    })
}

pub(super) fn at(keys: &[&'static str], result: Result<(), Problem>) -> Result<(), Invalid> {
    result.map_err(|problem| Invalid {
        way: keys.iter().map(|key| Step::Key(key)).collect(),
        problem,
    })
}

pub(super) fn unless(holds: bool, problem: impl FnOnce() -> Problem) -> Result<(), Problem> {
    if holds { Ok(()) } else { Err(problem()) }
}

/// systemd 252 fails to start a service that it passes some 700 descriptors (status 202/FDS), 257
/// one of some 1,000.
const SYSTEMD_PASSES: u64 = 640;
/// What a master opens beside its listeners.
const FILES_ELSE: u64 = 256;
const PROCESSES_MAX: u64 = 1024;
/// What a count of connections may be, far more than there are descriptors.
const CONNECTIONS_MAX: u64 = 1 << 32;
/// Streams of one connection: each may be a file.
const STREAMS_MAX: u64 = 1 << 16;
/// Generations that drain, each with processes of its own.
const GENERATIONS_MAX: u64 = 64;
/// The kernel cuts it to `net.core.somaxconn`.
const BACKLOG_MAX: u64 = 1 << 20;
/// The least time that is a limit and not a mistake.
pub(super) const MOMENT: Duration = Duration::from_millis(1);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);
