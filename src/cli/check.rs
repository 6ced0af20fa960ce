//! `check`: what would be served, and what the service could not use although the file is good. Root
//! types it, but the service has another user and a sandbox: its unit file says which.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::User;

use crate::api::Status;
use crate::config::{Config, ListenerConfig, Loaded};
use crate::sys::listeners;
use crate::sys::unit::UnitFile;

/// What would be served, in lines.
#[must_use]
pub fn report(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let mut text = format!("{}: the configuration is good\n", config.name);
    let mut line = |what: &str, value: String| {
        let _ = writeln!(text, "  {what:11} {value}");
    };
    match &loaded.files[..] {
        [] => line("read", "no file: built-in defaults".into()),
        files => {
            for (n, file) in files.iter().enumerate() {
                line(if n == 0 { "read" } else { "" }, file.display().to_string());
            }
        }
    }
    for listener in &config.listeners {
        let address = listener.address.as_deref();
        let address = address.unwrap_or("(a socket unit passes it)");
        let tls = if listener.tls { " (TLS)" } else { "" };
        line("listener", format!("{} at {address}{tls}", listener.name));
    }
    for identity in config.tls.identities.iter().flat_map(|all| &all.list) {
        let names = identity.names.join(", ");
        let file = identity.file.display();
        line("certificate", format!("{file} for {names}"));
    }
    if let Some(app) = &config.app {
        line("app", app.command.join(" "));
        let resolved = app.directory.canonicalize();
        let release = resolved.as_ref().unwrap_or(&app.directory);
        line("release", release.display().to_string());
    }
    if let Some(root) = &config.site.root {
        let beside = config.site.at.as_ref().zip(config.app.as_ref());
        line(
            "root",
            match beside {
                Some((at, app)) => format!("{} at {at}", app.directory.join(root).display()),
                None => root.display().to_string(),
            },
        );
    }
    line("access", config.log.access.clone());
    if !config.metrics.address.is_empty() {
        line("metrics", config.metrics.address.clone());
    }
    if !config.control.group.is_empty() {
        line(
            "orders",
            format!("root, members of group {}", config.control.group),
        );
    }
    text
}

/// What the service of this unit file could not use.
#[must_use]
pub fn unusable_in_unit(config: &Config, unit: &UnitFile) -> Vec<String> {
    let mut bad = Vec::new();
    let name = format!("{}.service", config.name);
    let user = unit.value("User").unwrap_or("root");
    let account = User::from_name(user).ok().flatten();
    let yes = |key: &str| matches!(unit.value(key), Some("yes" | "true" | "on" | "1"));
    let hides_homes = yes("ProtectHome") || unit.value("ProtectHome") == Some("tmpfs");
    if let Some(root) = &config.site.root {
        let root = match &config.app {
            Some(app) => app.directory.join(root),
            None => root.clone(),
        };
        let root = root.canonicalize().unwrap_or(root);
        let home = ["/home", "/root", "/run/user"];
        let shown = root.display();
        if hides_homes && home.iter().any(|home| root.starts_with(home)) {
            bad.push(format!(
                "site.root: {shown} is in a home directory, which {name} does not see \
                 (ProtectHome=): serve a directory outside of /home, as /srv"
            ));
        } else if let Some(account) = &account {
            if let Some(closed) = closed_to(&root, account, 0o5) {
                bad.push(format!(
                    "site.root: user {user} of {name} may not read {shown}: {} is closed to it",
                    closed.display()
                ));
            }
        }
    }
    if let Some(account) = &account {
        for (path, wanted) in files_of_tls(config) {
            let path = path.canonicalize().unwrap_or(path);
            // Systemd lets the unit's user read them, by an ACL that no mode shows (systemd.exec(5)).
            if path.starts_with(Path::new("/run/credentials").join(&name)) {
                continue;
            }
            if let Some(closed) = closed_to(&path, account, wanted) {
                bad.push(format!(
                    "tls: user {user} of {name} may not read {}: {} is closed to it",
                    path.display(),
                    closed.display()
                ));
            }
        }
    }
    let log = Path::new(&config.log.access);
    if log.is_absolute() {
        let shown = log.display();
        let directories = writable(unit);
        let strict = unit.value("ProtectSystem") == Some("strict");
        if strict && !directories.iter().any(|dir| log.starts_with(dir)) {
            let all: Vec<_> = directories
                .iter()
                .map(|d| d.display().to_string())
                .collect();
            bad.push(format!(
                "log.access: {name} may not write {shown} (ProtectSystem=strict); it may write in {}",
                all.join(", ")
            ));
        } else if let (Some(account), Ok(about)) = (&account, fs::metadata(log)) {
            if !allows(&about, account, 0o2) {
                bad.push(format!(
                    "log.access: user {user} of {name} may not write {shown}: chown it"
                ));
            }
        }
    }
    bad
}

/// Addresses that another program listens on. `status`: of the service, when it runs: what it holds
/// itself is not taken.
#[must_use]
pub fn taken(config: &Config, status: Option<&Status>) -> Vec<String> {
    let mut bad = Vec::new();
    let held = |address: &str| {
        let same = |held: &str| held == address || ends_alike(held, address);
        status.is_some_and(|status| {
            status.listeners.iter().any(|l| same(&l.address))
                || status.metrics.as_deref().is_some_and(same)
        })
    };
    let address = Some(config.metrics.address.as_str()).filter(|a| !a.is_empty());
    let metrics = ListenerConfig::new("metrics", address);
    for listener in config.listeners.iter().chain([&metrics]) {
        let Some(address) = &listener.address else {
            continue;
        };
        if address.starts_with("unix:") || held(address) {
            continue;
        }
        match listeners::bind_only(listener) {
            Err(e) if e.is_in_use() => {
                let key = if listener.name == "metrics" {
                    "metrics.address".to_owned()
                } else {
                    format!("listener {:?}", listener.name)
                };
                bad.push(format!(
                    "{key}: {address} is in use: another program listens there"
                ));
            }
            _ => {}
        }
    }
    bad
}

/// The same port on any address: a socket unit's, or the other family's.
fn ends_alike(held: &str, address: &str) -> bool {
    let port = |text: &str| text.rsplit_once(':').map(|(_, port)| port.to_owned());
    port(held).is_some() && port(held) == port(address)
}

/// What the service must be able to read for TLS, and how.
fn files_of_tls(config: &Config) -> Vec<(PathBuf, u32)> {
    let tls = &config.tls;
    if !config.listeners.iter().any(|listener| listener.tls) {
        return Vec::new();
    }
    let named = tls.certificates.iter().flat_map(|c| [&c.file, &c.key]);
    let mut all: Vec<_> = named
        .chain(&tls.client_ca)
        .map(|file| (file.clone(), 0o4))
        .collect();
    if let Some(directory) = &tls.directory {
        all.push((directory.clone(), 0o5));
        let inside = fs::read_dir(directory).into_iter().flatten().flatten();
        let pem = |path: &PathBuf| path.extension().is_some_and(|e| e == "crt" || e == "key");
        all.extend(
            inside
                .map(|entry| entry.path())
                .filter(pem)
                .map(|path| (path, 0o4)),
        );
    }
    all
}

/// Where a unit with `ProtectSystem=strict` may write.
fn writable(unit: &UnitFile) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for (key, below) in [
        ("LogsDirectory", "/var/log"),
        ("StateDirectory", "/var/lib"),
        ("CacheDirectory", "/var/cache"),
        ("RuntimeDirectory", "/run"),
    ] {
        let names = unit.values(key).into_iter().flat_map(str::split_whitespace);
        all.extend(names.map(|name| Path::new(below).join(name)));
    }
    let paths = unit.values("ReadWritePaths").into_iter();
    let paths = paths.flat_map(str::split_whitespace);
    all.extend(paths.map(|path| PathBuf::from(path.trim_start_matches(['-', '+']))));
    all
}

/// The first directory on the way that this user may not enter, or the last that it may not read.
fn closed_to(path: &Path, user: &User, wanted: u32) -> Option<PathBuf> {
    let mut way: Vec<_> = path.ancestors().collect();
    way.reverse();
    let last = way.len().saturating_sub(1);
    let closed = way.iter().enumerate().find(|(n, dir)| {
        let wanted = if *n == last { wanted } else { 0o1 };
        fs::metadata(dir).is_ok_and(|about| !allows(&about, user, wanted))
    });
    closed.map(|(_, dir)| dir.to_path_buf())
}

/// By its user, its main group, or everybody.
fn allows(about: &fs::Metadata, user: &User, wanted: u32) -> bool {
    let mode = about.mode();
    let granted = if user.uid.is_root() {
        0o7
    } else if about.uid() == user.uid.as_raw() {
        mode >> 6
    } else if about.gid() == user.gid.as_raw() {
        mode >> 3
    } else {
        mode
    };
    granted & wanted == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(text: &str) -> UnitFile {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x.service"), text).unwrap();
        UnitFile::read_below("x.service", &[dir.path()]).unwrap()
    }

    #[test]
    fn what_the_sandbox_hides_is_said_with_the_directive() {
        let unit = unit(
            "User=nobody\nProtectHome=yes\nProtectSystem=strict\nLogsDirectory=x\n\
             ReadWritePaths=-/srv/logs\n",
        );
        let mut config = Config::default();
        assert_eq!(unusable_in_unit(&config, &unit), [""; 0]);
        config.site.root = Some("/root".into());
        config.log.access = "/srv/other/access.log".into();
        let bad = unusable_in_unit(&config, &unit);
        assert!(bad[0].contains("ProtectHome="), "{bad:?}");
        assert!(bad[1].contains("ProtectSystem=strict"), "{bad:?}");
        assert!(bad[1].ends_with("/var/log/x, /srv/logs"), "{bad:?}");
        config.log.access = "/srv/logs/access.log".into();
        config.site.root = Some("/srv".into());
        assert_eq!(unusable_in_unit(&config, &unit), [""; 0]);
    }

    #[test]
    fn a_root_that_its_user_may_not_read_is_named_with_the_directory_in_the_way() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        fs::create_dir_all(closed.join("www")).unwrap();
        let open = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(dir.path(), open(0o755)).unwrap();
        fs::set_permissions(&closed, open(0o700)).unwrap();
        let nobody = User::from_name("nobody").unwrap().unwrap();
        let www = closed.join("www");
        assert_eq!(closed_to(&www, &nobody, 0o5), Some(closed.clone()));
        fs::set_permissions(&closed, open(0o711)).unwrap();
        assert_eq!(closed_to(&www, &nobody, 0o5), None);
    }

    #[test]
    fn a_key_that_its_user_may_not_read_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let open = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(dir.path(), open(0o755)).unwrap();
        let mut config = Config::default();
        config.tls.directory = Some(dir.path().into());
        for (name, mode) in [("a.crt", 0o644), ("a.key", 0o600)] {
            fs::write(dir.path().join(name), "").unwrap();
            fs::set_permissions(dir.path().join(name), open(mode)).unwrap();
        }
        let unit = unit("User=nobody\n");
        assert_eq!(
            unusable_in_unit(&config, &unit),
            [""; 0],
            "no listener speaks TLS"
        );
        config.listeners.push(ListenerConfig {
            tls: true,
            ..ListenerConfig::new("https", None)
        });
        let bad = unusable_in_unit(&config, &unit);
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert!(bad[0].ends_with("a.key is closed to it"), "{bad:?}");
    }

    #[test]
    fn an_address_is_taken_unless_the_service_holds_it() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap().to_string();
        let mut config = Config::default();
        config.metrics.address.clone_from(&address);
        let bad = taken(&config, None);
        let said = format!("metrics.address: {address} is in use: another program listens there");
        assert_eq!(bad, [said]);
        let mut status = crate::cli::status::tests::serving();
        status.metrics = Some(address);
        assert_eq!(taken(&config, Some(&status)), [""; 0]);
        drop(other);
        assert_eq!(taken(&config, None), [""; 0]);
    }
}
