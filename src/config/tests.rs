//! The configuration as an operator meets it: files on a disk, and the exact text of every error.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;

/// A directory that plays `/etc` of the service `web`.
struct Etc(TempDir);

impl Etc {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("web/conf.d")).unwrap();
        Self(dir)
    }

    fn file(self, path: &str, text: &str) -> Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join("web").join(path)
    }

    fn load(&self, sources: &Sources) -> Result<Loaded, ConfigError> {
        sources.load_below(self.0.path(), true)
    }

    fn config(&self) -> Config {
        self.load(&sources()).unwrap().config
    }

    /// The error's text with `/etc` for the directory.
    fn error(&self, sources: &Sources) -> String {
        let error = self.load(sources).unwrap_err().to_string();
        error.replace(self.0.path().to_str().unwrap(), "/etc")
    }
}

fn sources() -> Sources {
    Sources {
        room: Room::default(),
        defaults: Config {
            name: "web".into(),
            listeners: vec![listener("http", "127.0.0.1:8080")],
            ..Config::default()
        },
        ..Sources::default()
    }
}

fn listener(name: &str, address: &str) -> ListenerConfig {
    ListenerConfig {
        name: name.into(),
        address: Some(address.into()),
        backlog: None,
        mode: None,
        group: None,
        tls: false,
        proxy_protocol: false,
        redirect: None,
    }
}

/// The error that one main file alone gives.
fn error_of(text: &str) -> String {
    Etc::new().file("web.toml", text).error(&sources())
}

#[test]
fn without_files_the_defaults_hold() {
    let loaded = Etc::new().load(&sources()).unwrap();
    assert_eq!(loaded.config, sources().defaults);
    assert_eq!((loaded.path, loaded.files), (None, vec![]));
}

#[test]
fn every_key_of_the_documented_file_is_known_and_its_values_are_the_defaults() {
    // Every key of explained.toml, less the root, which would have to exist.
    let text = r#"
        name = "handover"
        workers = "auto"
        [[listener]]
        name = "http"
        address = "127.0.0.1:8080"
        [site]
        [http]
        header_timeout = "30s"
        body_timeout = "60s"
        send_timeout = "60s"
        keepalive_timeout = "75s"
        max_connections = 0
        http2 = true
        max_streams = 128
        [upgrade]
        start_timeout = "30s"
        probation = "60s"
        [drain]
        timeout = "10m"
        stop_timeout = "8s"
        pass_connections = true
        generations = 8
        [log]
        level = "info"
        access = "off"
        [control]
        group = ""
        [metrics]
        address = ""
    "#;
    let expected = Config {
        name: "handover".into(),
        ..sources().defaults
    };
    assert_eq!(Etc::new().file("web.toml", text).config(), expected);
}

#[test]
fn fragments_are_laid_over_the_file_in_the_order_of_their_names() {
    let etc = Etc::new()
        .file("web.toml", "workers = 2\n[http]\nmax_connections = 5\n")
        .file("conf.d/20-b.toml", "workers = 4\n")
        .file(
            "conf.d/10-a.toml",
            "workers = 3\nhttp.header_timeout = '1m'\n",
        )
        .file("conf.d/.hidden.toml", "no toml")
        .file("conf.d/30.toml.bak", "no toml");
    let loaded = etc.load(&sources()).unwrap();
    assert_eq!(loaded.config.workers, Workers::Count(4));
    assert_eq!(loaded.config.http.max_connections, 5);
    assert_eq!(loaded.config.http.header_timeout, Duration::from_secs(60));
    assert_eq!(loaded.path, Some(etc.path("web.toml")));
    let files = ["web.toml", "conf.d/10-a.toml", "conf.d/20-b.toml"];
    assert_eq!(loaded.files, files.map(|f| etc.path(f)));
}

#[test]
fn however_the_directory_lists_them() {
    let names: Vec<String> = (10..60).map(|n| format!("conf.d/{n}.toml")).collect();
    let etc = names
        .iter()
        .rev()
        .fold(Etc::new(), |etc, name| etc.file(name, ""));
    let expected: Vec<_> = names.iter().map(|name| etc.path(name)).collect();
    assert_eq!(etc.load(&sources()).unwrap().files, expected);
}

#[test]
fn a_fragment_alone_is_enough() {
    let etc = Etc::new().file("conf.d/x.toml", "workers = 3");
    let loaded = etc.load(&sources()).unwrap();
    assert_eq!(loaded.config.workers, Workers::Count(3));
    assert_eq!(loaded.path, Some(etc.path("conf.d/x.toml")));
}

#[test]
fn listeners_of_a_file_replace_the_programs_own_and_an_empty_list_does_not() {
    let config = Etc::new()
        .file("web.toml", "[[listener]]\nname = 'admin'\n")
        .config();
    let names: Vec<_> = config.listeners.iter().map(|l| &l.name).collect();
    assert_eq!(names, ["admin"]);
    assert_eq!(config.listeners[0].address, None);
    let config = Etc::new().file("web.toml", "listener = []").config();
    assert_eq!(config.listeners, sources().defaults.listeners);
}

#[test]
fn a_fragments_listener_changes_the_one_of_its_name_field_by_field_or_is_one_more() {
    let config = Etc::new()
        .file(
            "web.toml",
            "[[listener]]\nname = 'a'\naddress = 'unix:/run/a'\nmode = '0660'\n\
             [[listener]]\nname = 'b'\naddress = '[::]:80'\n",
        )
        .file(
            "conf.d/1.toml",
            "[[listener]]\nname = 'c'\n[[listener]]\nname = 'a'\nmode = '0600'\n",
        )
        .config();
    let a = ListenerConfig {
        mode: Some("0600".into()),
        ..listener("a", "unix:/run/a")
    };
    let c = ListenerConfig {
        address: None,
        ..listener("c", "")
    };
    assert_eq!(config.listeners, [a, listener("b", "[::]:80"), c]);
}

#[test]
fn a_name_with_several_sockets_is_replaced_as_a_whole() {
    let two = "[[listener]]\nname = 'a'\naddress = '0.0.0.0:80'\n\
               [[listener]]\nname = 'a'\naddress = '[::1]:80'\n";
    let one = "[[listener]]\nname = 'a'\naddress = '[::]:80'\n";
    let etc = Etc::new().file("web.toml", two).file("conf.d/1.toml", one);
    assert_eq!(etc.config().listeners, [listener("a", "[::]:80")]);
    let etc = Etc::new().file("web.toml", one).file("conf.d/1.toml", two);
    let both = [listener("a", "0.0.0.0:80"), listener("a", "[::1]:80")];
    assert_eq!(etc.config().listeners, both);
}

#[test]
fn the_command_line_has_the_last_word() {
    let etc = Etc::new().file(
        "web.toml",
        "workers = 2\n[[listener]]\nname = 'a'\n[[listener]]\nname = 'b'\n",
    );
    let overrides = Overrides {
        listen: vec!["[::]:80".into(), "unix:/run/x".into()],
        root: Some(etc.path("conf.d")),
        workers: Some(Workers::Count(7)),
        ..Overrides::default()
    };
    let loaded = etc.load(&Sources {
        overrides,
        ..sources()
    });
    let config = loaded.unwrap().config;
    assert_eq!(config.workers, Workers::Count(7));
    assert_eq!(config.site.root, Some(etc.path("conf.d")));
    let expected = [listener("http", "[::]:80"), listener("http", "unix:/run/x")];
    assert_eq!(config.listeners, expected);
}

#[test]
fn an_instance_has_a_file_among_those_of_its_template() {
    let etc = Etc::new()
        .file("web.toml", "workers = 1")
        .file("conf.d/1.toml", "workers = 2")
        .file("blog.toml", "[http]\nmax_connections = 3")
        .file("blog.d/1.toml", "workers = 4");
    let mut sources = Sources::default();
    sources.overrides.name = Some("web@blog".into());
    let loaded = etc.load(&sources).unwrap();
    assert_eq!(loaded.config.name, "web@blog");
    assert_eq!(loaded.config.http.max_connections, 3);
    assert_eq!(loaded.config.workers, Workers::Count(4));
    assert_eq!(
        loaded.files,
        [etc.path("blog.toml"), etc.path("blog.d/1.toml")]
    );
}

#[test]
fn the_name_of_the_command_line_finds_the_file() {
    let etc = Etc::new().file("web.toml", "workers = 2");
    let mut sources = Sources::default();
    assert_eq!(etc.load(&sources).unwrap().config.name, "handover");
    sources.overrides.name = Some("web".into());
    let config = etc.load(&sources).unwrap().config;
    assert_eq!(
        (config.name.as_str(), config.workers),
        ("web", Workers::Count(2))
    );
    sources.overrides.name = Some("../web".into());
    assert!(
        etc.error(&sources)
            .starts_with("--name: `name`: \"../web\" cannot be the name")
    );
}

#[test]
fn a_named_file_must_exist_and_has_its_own_fragments() {
    let etc = Etc::new().file("conf.d/a.toml", "threads = 2");
    let mut sources = sources();
    sources.explicit = Some(etc.path("other.toml"));
    assert_eq!(
        etc.error(&sources),
        "cannot read /etc/web/other.toml: No such file or directory (os error 2)"
    );
    let etc = etc.file("other.toml", "workers = 2");
    let config = etc.load(&sources).unwrap().config;
    assert_eq!((config.threads, config.workers), (2, Workers::Count(2)));
}

#[test]
fn relative_paths_are_beside_the_file_that_says_them() {
    let etc = Etc::new()
        .file("web.toml", "site.root = 'nowhere'\nlog.access = 'log'")
        .file("conf.d/a.toml", "site.root = '.'");
    let config = etc.config();
    assert_eq!(config.site.root, Some(etc.path("conf.d/.")));
    assert_eq!(Path::new(&config.log.access), etc.path("log"));
}

#[test]
fn sources_tell_whether_the_disk_still_says_what_runs() {
    let etc = Etc::new().file("x.toml", "workers = 2");
    let mut sources = sources();
    sources.explicit = Some(etc.path("x.toml"));
    sources.overrides.workers = Some(Workers::Count(9));
    let running = sources.load().unwrap().config;
    assert!(sources.matches(&running));
    let etc = etc.file("x.toml", "workers = 3 # the flag wins");
    assert!(sources.matches(&running));
    let etc = etc.file("x.toml", "threads = 3");
    assert!(!sources.matches(&running));
    etc.file("x.toml", "[");
    assert!(!sources.matches(&running));
}

#[test]
fn an_unknown_key_is_shown_in_its_line() {
    assert_eq!(
        error_of("# a comment\n\nwrokers = 2\n"),
        "/etc/web/web.toml:3:1: unknown key `wrokers`, expected one of `name`, `workers`, \
         `threads`, `listener`, `site`, `app`, `http`, `tls`, `upgrade`, `drain`, `log`, `control`, \
         `metrics`\n\
         3 | wrokers = 2\n  | ^^^^^^^"
    );
    let etc = Etc::new()
        .file("web.toml", "workers = 2\n")
        .file("conf.d/a.toml", "[site]\nrood = '/'\n");
    assert_eq!(
        etc.error(&sources()),
        "/etc/web/conf.d/a.toml:2:1: unknown key `rood`, expected one of `root`, `at`, `server_header`\n\
         2 | rood = '/'\n  | ^^^^"
    );
}

#[test]
fn wrong_types_are_told_in_plain_words() {
    for (line, column, message) in [
        (
            "workers = 0",
            11,
            "invalid value: integer `0`, expected \"auto\" or a number from 1 to 65535",
        ),
        (
            "workers = 'all'",
            11,
            "invalid value: string \"all\", expected \"auto\" or a number from 1 to 65535",
        ),
        (
            "threads = -1",
            11,
            "invalid value: integer `-1`, expected a whole number, not below 0",
        ),
        ("http = 3", 8, "invalid type: integer `3`, expected a table"),
        (
            "drain.timeout = 60",
            17,
            "invalid type: integer `60`, expected a duration in words, such as \"30s\" or \"10m\"",
        ),
        (
            "drain.timeout = 'soon'",
            17,
            "invalid value: string \"soon\", expected a duration in words, such as \"30s\" or \"10m\"",
        ),
        (
            "drain.pass_connections = 'no'",
            26,
            "invalid type: string \"no\", expected a boolean",
        ),
        (
            "site.root = 3",
            13,
            "invalid type: integer `3`, expected a path",
        ),
        (
            "[listener]",
            1,
            "there may be several listeners: write `[[listener]]`, with two brackets",
        ),
        ("[[listener]]", 1, "missing key `name`"),
        (
            "workers = ",
            11,
            "string values must be quoted, expected literal string",
        ),
    ] {
        let error = error_of(line);
        let first = format!("/etc/web/web.toml:1:{column}: {message}\n1 | {line}\n");
        assert!(error.starts_with(&first), "{error}");
        assert!(error.ends_with('^'), "{error}");
    }
}

#[test]
fn the_places_of_a_later_file_are_right_after_a_longer_one() {
    let etc = Etc::new()
        .file("web.toml", &"# filler\n".repeat(50))
        .file("conf.d/a.toml", "threads = 1\n[log]\nlevel = 'loud'\n");
    assert_eq!(
        etc.error(&sources()),
        "/etc/web/conf.d/a.toml:3:9: `log.level`: \"loud\" is not a level: error, warn, info, \
         debug or trace\n3 | level = 'loud'\n  |         ^^^^^^"
    );
}

#[test]
fn values_that_cannot_be_name_the_key_and_show_the_line() {
    for (line, key, problem) in [
        (
            "name = 'a/b'",
            "name",
            "\"a/b\" cannot be the name of a service: 1 to 64 of the ASCII letters and digits, `-`, `_`, `.`, `@`, and not `-` or `.` first",
        ),
        (
            "workers = 2000",
            "workers",
            "2000 is out of range: 1 to 1024",
        ),
        ("threads = 0", "threads", "0 is out of range: 1 to 1024"),
        (
            "site.root = '/nowhere/at/all'",
            "site.root",
            "cannot serve /nowhere/at/all: there is no such directory",
        ),
        (
            "site.root = '/etc/passwd'",
            "site.root",
            "cannot serve /etc/passwd: not a directory",
        ),
        (
            "http.header_timeout = '0s'",
            "http.header_timeout",
            "0s is out of range: 1ms to 1day",
        ),
        (
            "upgrade.probation = '31days'",
            "upgrade.probation",
            "1month 13h 26m 24s is out of range: 0s to 30days",
        ),
        (
            "upgrade.health = 'healthz'",
            "upgrade.health",
            "\"healthz\" is not a path to ask for: it starts with `/` and has neither spaces nor control characters",
        ),
        (
            "log.access = ''",
            "log.access",
            "\"\" is neither \"off\" nor a path",
        ),
        (
            "control.group = 'a b'",
            "control.group",
            "\"a b\" cannot be the name of a group",
        ),
        (
            "metrics.address = '9100'",
            "metrics.address",
            "\"9100\" is not an address: write an IP address and a port (\"127.0.0.1:80\", \"[::]:80\"), or \"unix:\" and a path",
        ),
        (
            "metrics.address = 'udp:[::]:1'",
            "metrics.address",
            "\"udp:[::]:1\" cannot be served: HTTP needs connections, not datagrams",
        ),
    ] {
        let value = line.split_once("= ").unwrap().1;
        let column = line.find("= ").unwrap() + 3;
        let indent = " ".repeat(column - 1);
        let carets = "^".repeat(value.len());
        assert_eq!(
            error_of(line),
            format!(
                "/etc/web/web.toml:1:{column}: `{key}`: {problem}\n1 | {line}\n  | {indent}{carets}"
            ),
        );
    }
}

#[test]
fn listeners_that_cannot_be_are_shown_by_the_field_that_is_wrong() {
    let long = "x".repeat(252);
    let name_rule = "cannot be the name of a listener: 1 to 251 printable ASCII characters, no `:`, and not `own.` first";
    for (fields, key, line, problem) in [
        ("name = 'a:b'", "name", 2, format!("\"a:b\" {name_rule}")),
        ("name = 'ü'", "name", 2, format!("\"ü\" {name_rule}")),
        ("name = ''", "name", 2, format!("\"\" {name_rule}")),
        ("name = 'own.http'", "name", 2, format!("\"own.http\" {name_rule}")),
        (&format!("name = '{long}'"), "name", 2, format!("{long:?} {name_rule}")),
        ("name = 'a'\naddress = 'unix:x'", "address", 3, "\"unix:x\" is not an address: the path of a Unix socket starts with a slash (\"unix:/run/x.sock\")".into()),
        ("name = 'a'\naddress = 'udp:[::]:80'", "address", 3, "\"udp:[::]:80\" cannot be served: HTTP needs connections, not datagrams".into()),
        ("name = 'a'\naddress = '[::]:80'\nmode = '0660'", "mode", 4, "only a listener with a `unix:` path has one".into()),
        ("name = 'a'\ngroup = 'www'", "group", 3, "only a listener with a `unix:` path has one".into()),
        ("name = 'a'\naddress = 'unix:/x'\nmode = '0880'", "mode", 4, "\"0880\" is not a mode: write it in octal, as in \"0660\"".into()),
        ("name = 'a'\nbacklog = 0", "backlog", 3, "0 is out of range: 1 to 1048576".into()),
        ("name = 'a'\n[[listener]]\nname = 'a'", "name", 4, "there are two listeners \"a\" without an address: one entry stands for all that the socket unit passes".into()),
        ("name = 'a'\naddress = '[::]:80'\n[[listener]]\nname = 'b'\naddress = '[0::0]:80'", "address", 6, "[::]:80 is listened on twice (listeners \"a\" and \"b\")".into()),
    ] {
        let error = error_of(&format!("[[listener]]\n{fields}\n"));
        let middle = format!(": `listener.{key}`: {problem}\n{line} | ");
        assert!(error.contains(&middle), "{error}\n{middle}");
        assert!(error.starts_with(&format!("/etc/web/web.toml:{line}:")), "{error}");
    }
}

#[test]
fn a_wrong_flag_is_named_as_the_flag() {
    let mut sources = sources();
    sources.overrides.listen = vec!["80".into()];
    assert_eq!(
        Etc::new().error(&sources),
        "--listen: `listener.address`: \"80\" is not an address: write an IP address and a port \
         (\"127.0.0.1:80\", \"[::]:80\"), or \"unix:\" and a path"
    );
    sources.overrides.listen.clear();
    sources.overrides.root = Some("/nowhere/at/all".into());
    assert_eq!(
        Etc::new().error(&sources),
        "--root: `site.root`: cannot serve /nowhere/at/all: there is no such directory"
    );
    sources.overrides.root = None;
    sources.defaults.threads = 0;
    assert_eq!(
        Etc::new().error(&sources),
        "the program's own configuration: `threads`: 0 is out of range: 1 to 1024"
    );
}

#[test]
fn files_that_are_no_text_are_refused_without_reading_them_for_ever() {
    let etc = Etc::new();
    fs::write(etc.path("web.toml"), b"a = 1\nb = '\xff'\n").unwrap();
    let error = etc.error(&sources());
    assert!(
        error.starts_with("/etc/web/web.toml:2:6: not UTF-8\n"),
        "{error}"
    );
    fs::write(etc.path("web.toml"), vec![b'#'; 1024 * 1024 + 1]).unwrap();
    assert_eq!(
        etc.error(&sources()),
        "/etc/web/web.toml is larger than 1024 KiB"
    );
    let mut sources = sources();
    sources.explicit = Some("/dev/zero".into());
    assert_eq!(
        etc.error(&sources),
        "/dev/zero is not a regular file, so that a reload could not read it again"
    );
}

/// Every field other than its default, so that one that is skipped or renamed on one side shows.
fn all_different(seed: u64) -> Config {
    let time = |n: u64| {
        Duration::new(
            seed.wrapping_mul(n) % 2_000_000,
            (seed % 1_000_000_000) as u32,
        )
    };
    Config {
        name: format!("name-{seed}"),
        workers: Workers::Count((seed % 65535) as u16 + 1),
        threads: usize::try_from(seed % 1000).unwrap() + 2,
        listeners: vec![
            ListenerConfig {
                backlog: Some(u32::try_from(seed >> 32).unwrap()),
                mode: Some("0660".into()),
                group: Some("www".into()),
                ..ListenerConfig::new(&format!("l {seed} \"'\\"), Some("unix:/run/é\u{1}"))
            },
            ListenerConfig {
                name: String::new(),
                address: None,
                backlog: None,
                mode: None,
                group: None,
                tls: false,
                proxy_protocol: false,
                redirect: None,
            },
        ],
        site: Site {
            root: Some(format!("/srv/\u{1f980}/{seed}\n").into()),
            at: Some(format!("/static/{seed}")),
            server_header: false,
        },
        app: Some(App {
            directory: format!("/srv/{seed}").into(),
            command: vec!["run".into(), "{socket}".into()],
            listen: Some(Listens::Socket),
            env_files: vec!["/srv/env".into()],
            ready: Some("/r".into()),
            warmup: vec!["/w".into()],
            instances: (seed % 100) as u16 + 2,
            memory: Some(Size(seed)),
            parked: Parked::Stopped,
            keep: (seed % 100) as u16 + 6,
            stop_signal: "INT".into(),
            stop_timeout: time(18),
            connect_timeout: time(23),
            answer_timeout: time(29),
            stall_timeout: time(31),
            tunnel_timeout: time(32),
            idle_timeout: time(37),
        }),
        http: Http {
            header_timeout: time(3),
            body_timeout: time(19),
            send_timeout: time(23),
            keepalive_timeout: time(5),
            max_connections: seed >> 1 | 1,
            http2: false,
            max_streams: 7,
            trusted_proxies: vec!["unix:".parse().unwrap()],
        },
        tls: Tls {
            directory: Some("/etc/é".into()),
            certificates: vec![CertificateFiles {
                file: format!("/{seed}.crt").into(),
                key: "/k \"".into(),
            }],
            min_version: TlsVersion::V13,
            client_ca: Some("/ca".into()),
            tickets: false,
            identities: None,
        },
        upgrade: Upgrade {
            start_timeout: time(7),
            probation: time(11),
            health: Some("/h".into()),
        },
        drain: Drain {
            timeout: time(13),
            stop_timeout: time(17),
            pass_connections: false,
            generations: 3,
        },
        log: Log {
            level: "trace".into(),
            access: "/var/log/x".into(),
        },
        control: Control {
            group: "adm".into(),
        },
        metrics: Metrics {
            address: "[::1]:9100".into(),
        },
        application: toml::from_str(&format!(
            "text = '{seed}'\nnumber = {}\nhalf = 0.5\nday = 1979-05-27\n[[table]]\nyes = true",
            seed >> 1
        ))
        .unwrap(),
    }
}

/// With an application in it, and the program that starts it.
fn blog() -> Etc {
    let etc = Etc::new().file("env", "A=1\n");
    let release = etc.path("blog");
    fs::create_dir(&release).unwrap();
    fs::write(release.join("run"), "#!/bin/sh\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(release.join("run"), mode).unwrap();
    etc
}

#[test]
fn an_application_is_named_by_its_directory_and_its_command() {
    let etc = blog().file(
        "web.toml",
        "[app]\ndirectory = \"blog\"\ncommand = [\"./run\", \"{socket}\"]\nenv_files = [\"env\"]\n\
         ready = \"/healthz\"\n[http]\ntrusted_proxies = [\"10.0.0.0/8\", \"unix:\"]\n",
    );
    let app = etc.config().app.unwrap();
    assert_eq!(app.directory, etc.path("blog"));
    assert_eq!(app.env_files, [etc.path("env")]);
    assert_eq!(app.listens(), Listens::Socket);
    assert_eq!(app.stop_signal(), nix::sys::signal::Signal::SIGTERM);
    assert_eq!((app.instances, app.keep), (1, 5));
}

#[test]
fn the_command_line_names_an_application_too() {
    let etc = blog().file("web.toml", "[site]\nroot = \"blog\"\n");
    let mut sources = sources();
    sources.overrides.app = Some(etc.path("blog"));
    sources.overrides.command = vec!["./run".into()];
    let config = etc.load(&sources).unwrap().config;
    assert_eq!(config.site.root, None);
    let app = config.app.unwrap();
    assert_eq!(app.directory, etc.path("blog"));
    assert_eq!(app.command, ["./run"]);
    assert_eq!(app.listens(), Listens::Port);
}

#[test]
fn braces_that_are_no_place_of_ours_are_the_programs() {
    for word in [
        "${HOME}/x",
        "{\"a\":1}",
        "awk '{print}'",
        "%({x-id}i)s",
        "x{y}",
        "{}",
        "{port}/{x}",
    ] {
        let text = format!("[app]\ndirectory = \"blog\"\ncommand = [\"./run\", {word:?}]\n");
        let app = blog().file("web.toml", &text).config().app.unwrap();
        assert_eq!(app.command, ["./run", word]);
    }
}

#[test]
fn a_site_beside_an_application_is_in_its_release() {
    let text = "[app]\ndirectory = \"blog\"\ncommand = [\"./run\"]\nlisten = \"fd\"\nmemory = \"512M\"\n\
                [site]\nroot = \"static\"\nat = \"/static\"\n";
    let etc = blog().file("blog/static/a.css", "").file("web.toml", text);
    let config = etc.config();
    assert_eq!(config.site.root, Some("static".into()));
    let app = config.app.unwrap();
    assert_eq!(app.listens(), Listens::Fd);
    assert_eq!(app.memory, Some(Size(512 << 20)));
}

#[test]
fn an_application_that_cannot_be_started_is_no_configuration() {
    let good = "directory = \"blog\"\ncommand = [\"./run\"]\n";
    for (app, wrong) in [
        (
            "command = [\"x\"]\n",
            "`app.directory`: the directory of the application is missing",
        ),
        (
            "directory = \"gone\"\ncommand = [\"x\"]\n",
            "there is no such directory",
        ),
        (
            "directory = \"env\"\ncommand = [\"x\"]\n",
            "cannot start an application in /etc/web/env",
        ),
        (
            "directory = \"blog\"\n",
            "`app.command`: the command that starts",
        ),
        (
            "directory = \"blog\"\ncommand = [\"venv/bin/x\"]\n",
            "there is no such file",
        ),
        (
            "directory = \"blog\"\ncommand = [\"./plain\"]\n",
            "it is not executable (`chmod +x`)",
        ),
        (
            "directory = \"blog\"\ncommand = [\"./moved\"]\n",
            "its interpreter /gone/bin/python is not there",
        ),
        (
            "directory = \"blog\"\ncommand = [\"./crlf\"]\n",
            "its first line ends with CR LF",
        ),
        (
            &format!("{good}env_files = [\"bad\"]\n"),
            "line 1: expected NAME=value",
        ),
        (
            &format!("{good}ready = \"healthz\"\n"),
            "is not a path to ask for",
        ),
        (
            &format!("{good}warmup = [\"/\", \"x\"]\n"),
            "is not a path to ask for",
        ),
        (
            &format!("{good}instances = 0\n"),
            "0 is out of range: 1 to 256",
        ),
        (
            &format!("{good}stop_signal = \"SIGTERM\"\n"),
            "is not a signal",
        ),
        (
            &format!("{good}answer_timeout = \"0s\"\n"),
            "is out of range",
        ),
        (
            &format!("{good}[http]\ntrusted_proxies = [\"proxy\"]\n"),
            "\"proxy\" is no address",
        ),
    ] {
        is_refused(app, wrong);
    }
}

#[test]
fn an_application_listens_at_one_place_and_its_site_is_in_its_release() {
    let good = "directory = \"blog\"\ncommand = [\"./run\"]\n";
    for (app, wrong) in [
        (
            "directory = \"blog\"\ncommand = [\"./run\", \"{socket}\", \"{port}\"]\n",
            "the command names {port}, and the application is to listen at {socket}",
        ),
        (
            "directory = \"blog\"\ncommand = [\"./run\", \"{port}\"]\nlisten = \"fd\"\n",
            "the command names {port}, and the application is to listen at {fd}",
        ),
        (
            &format!("{good}listen = \"socket\"\n"),
            "the command does not name {socket}",
        ),
        (
            "directory = \"blog\"\ncommand = [\"./run\", \"unix:{sock}\"]\n",
            "the command names {sock}, which nothing stands for: known are {socket}, {port} and {fd}",
        ),
        (
            &format!("{good}memory = \"half\"\n"),
            "\"half\" is no size such as \"512M\"",
        ),
        (&format!("{good}memory = \"1M\"\n"), "is out of range"),
        (
            &format!("{good}[site]\nat = \"/static\"\n"),
            "`site.at`: is for a site beside `[app]`, and needs both",
        ),
        (
            &format!("{good}[site]\nroot = \"blog\"\n"),
            "`site.root`: beside `[app]` it needs `at`, such as \"/static\"",
        ),
        (
            &format!("{good}[site]\nroot = \"/nowhere\"\nat = \"/static\"\n"),
            "`site.root`: cannot serve /nowhere: there is no such directory",
        ),
        (
            &format!("{good}[site]\nat = \"/\"\nroot = \"static\"\n"),
            "\"/\" is not a path for a site beside `[app]`",
        ),
        (
            &format!("{good}[site]\nat = \"/static\"\nroot = \"../static\"\n"),
            "\"../static\" must be a directory within the release",
        ),
        (
            &format!("{good}[site]\nat = \"/static\"\nroot = \".\"\n"),
            "\".\" must be a directory within the release",
        ),
        (
            &format!("{good}[site]\nat = \"/static\"\nroot = \"static\"\n"),
            "`site.root`: cannot serve /etc/web/blog/static: there is no such directory",
        ),
    ] {
        is_refused(app, wrong);
    }
}

#[track_caller]
fn is_refused(app: &str, wrong: &str) {
    let etc = blog()
        .file("bad", "secret\n")
        .file("blog/plain", "")
        .file("blog/moved", "#!/gone/bin/python\n")
        .file("blog/crlf", "#!/bin/sh\r\nexec true\r\n")
        .file("web.toml", &format!("[app]\n{app}"));
    for script in ["blog/moved", "blog/crlf"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(etc.path(script), mode).unwrap();
    }
    let error = etc.error(&sources());
    assert!(error.contains(wrong), "{app}: {error}");
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn every_value_comes_back_from_toml_and_json() {
    let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..500 {
        // xorshift64
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let config = all_different(seed);
        let toml = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&toml).unwrap(), config, "{toml}");
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<Config>(&json).unwrap(),
            config,
            "{json}"
        );
        let as_json = |c: &Config| serde_json::to_value(c).unwrap();
        let (given, default) = (as_json(&config), as_json(&Config::default()));
        assert_differs(&given, &default, "");
    }
    let default = Config::default();
    let toml = toml::to_string(&default).unwrap();
    assert_eq!(toml::from_str::<Config>(&toml).unwrap(), default);
}

/// No leaf of `a` is that of `b`: a field added to `Config` has to be added above.
fn assert_differs(a: &serde_json::Value, b: &serde_json::Value, way: &str) {
    match (a, b) {
        (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
            for (key, value) in a {
                let other = b.get(key).unwrap_or(&serde_json::Value::Null);
                assert_differs(value, other, &format!("{way}.{key}"));
            }
        }
        _ => assert_ne!(a, b, "{way} is the default's"),
    }
}

/// A directory for certificates, and a configuration that names it.
struct TlsFiles(TempDir);

impl TlsFiles {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        fs::write(self.0.path().join(name), text).unwrap();
        self
    }

    /// The error, without the directory's name; empty when there is none.
    fn refused(&self) -> String {
        let whole = |loaded: Loaded| loaded.config.tls.identities.unwrap().are_whole();
        self.load()
            .and_then(whole)
            .err()
            .map_or_else(String::new, |e| {
                e.to_string()
                    .replace(self.0.path().to_str().unwrap(), "/tls")
            })
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        let config = self.0.path().join("web.toml");
        let text = "[[listener]]\nname = \"https\"\naddress = \"[::]:443\"\ntls = true\n\
                    [tls]\ndirectory = \".\"\n";
        fs::write(&config, text).unwrap();
        Config::load(Some(&config), "web", Config::default())
    }
}

fn certificate(names: &[&str]) -> (rcgen::Certificate, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
    let params = rcgen::CertificateParams::new(names).unwrap();
    (params.self_signed(&key).unwrap(), key)
}

#[test]
fn a_certificate_and_its_key_are_found_by_their_names() {
    let (files, (certificate, key)) = (TlsFiles::new(), certificate(&["a.example", "*.b.example"]));
    files
        .write("a.crt", &certificate.pem())
        .write("a.key", &key.serialize_pem())
        .write("README", "not a certificate");
    let tls = files.load().unwrap().config.tls;
    let identities = tls.identities.as_ref().unwrap();
    assert_eq!(identities.list[0].names, ["a.example", "*.b.example"]);
    let shown = format!("{tls:?}");
    assert!(shown.contains("SecretBytes(..)"), "{shown}");
}

#[test]
fn a_listener_that_speaks_tls_without_a_certificate_is_shown() {
    let text = "[[listener]]\nname = \"https\"\naddress = \"[::]:443\"\ntls = true\n";
    let error = Etc::new().file("web.toml", text).error(&sources());
    let words = ":4:7: `listener.tls`: a listener has `tls = true`, but there is no certificate";
    assert!(error.contains(words), "{error}");
}

#[test]
fn a_bad_certificate_is_refused_with_what_is_wrong_with_it() {
    let (one, key) = certificate(&["a.example"]);
    let (other, other_key) = certificate(&["b.example"]);
    let (one, key) = (one.pem(), key.serialize_pem());
    for (crt, key, wrong) in [
        (
            &*one,
            &*other_key.serialize_pem(),
            "is not the one of the certificate",
        ),
        ("", &*key, "holds no certificate in PEM"),
        (&*one, "", "there is no BEGIN PRIVATE KEY"),
        (
            &*one,
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
            "it is encrypted",
        ),
        (
            &*format!("{one}{}", other.pem()),
            &*key,
            "number 2 signed none of the others",
        ),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &*key,
            "understood",
        ),
    ] {
        let files = TlsFiles::new();
        files.write("a.crt", crt).write("a.key", key);
        let refused = files.refused();
        assert!(refused.contains(wrong), "{wrong}: {refused}");
        assert!(refused.contains("`tls.directory`"), "{refused}");
    }
    let files = TlsFiles::new();
    assert!(files.refused().contains("there is no certificate"));
    files.write("a.crt", &one);
    assert!(
        files.refused().contains("has no /tls/a.key beside it"),
        "{}",
        files.refused()
    );
    fs::create_dir(files.0.path().join("a.key")).unwrap();
    assert!(
        files.refused().contains("it is not a file"),
        "{}",
        files.refused()
    );
}

/// Two certificates, and what becomes of them when the files are bad.
#[test]
fn what_can_be_used_is_used_and_what_cannot_comes_from_the_generation_before() {
    let files = TlsFiles::new();
    for name in ["a", "b"] {
        let (certificate, key) = certificate(&[&format!("{name}.example")]);
        files.write(&format!("{name}.crt"), &certificate.pem());
        files.write(&format!("{name}.key"), &key.serialize_pem());
    }
    let identities = |config: &Config| config.tls.identities.as_deref().unwrap().clone();
    let names = |config: &Config| -> Vec<String> {
        let list = identities(config).list;
        list.into_iter().flat_map(|one| one.names).collect()
    };
    let before = identities(&files.load().unwrap().config);
    files.write("a.key", "nothing");
    let load = |before| {
        let mut config = files.load().unwrap().config;
        config.make_do_with_certificates(before);
        config
    };
    assert_eq!(names(&load(None)), ["b.example"]);
    assert_eq!(names(&load(Some(&before))), ["b.example", "a.example"]);
    // Half of a pair costs that pair alone.
    fs::remove_file(files.0.path().join("a.key")).unwrap();
    assert_eq!(names(&load(None)), ["b.example"]);
    for file in ["a.crt", "b.crt", "b.key"] {
        fs::remove_file(files.0.path().join(file)).unwrap();
    }
    assert_eq!(names(&load(None)), [""; 0]);
    assert_eq!(names(&load(Some(&before))), ["a.example", "b.example"]);
}

#[test]
fn without_the_authorities_of_clients_nobody_is_served() {
    let files = TlsFiles::new();
    let (own, key) = certificate(&["a.example"]);
    files
        .write("a.crt", &own.pem())
        .write("a.key", &key.serialize_pem());
    let mut config = files.load().unwrap().config;
    config.tls.client_ca = Some(files.0.path().join("missing.pem"));
    config.read_certificates();
    let mut alone = config.clone();
    alone.make_do_with_certificates(None);
    let alone = alone.tls.identities.unwrap();
    assert!(alone.list.is_empty() && alone.client_ca.is_empty());
    assert!(alone.are_whole().is_err());
    let before = Identities {
        client_ca: vec![own.der().to_vec()],
        ..Identities::default()
    };
    config.make_do_with_certificates(Some(&before));
    let after = config.tls.identities.unwrap();
    assert_eq!(after.client_ca, before.client_ca);
    assert_eq!(after.list.len(), 1);
}

#[test]
fn a_key_that_everybody_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let (files, (certificate, key)) = (TlsFiles::new(), certificate(&["a.example"]));
    files
        .write("a.crt", &certificate.pem())
        .write("a.key", &key.serialize_pem());
    let warnings = |mode| {
        let file = files.0.path().join("a.key");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let identities = files.load().unwrap().config.tls.identities.unwrap();
        identities.doubts(SystemTime::now()).collect::<Vec<_>>()
    };
    assert_eq!(warnings(0o640), [""; 0]);
    let [warning] = &warnings(0o644)[..] else {
        panic!("one warning");
    };
    assert!(warning.contains("a.key: `chmod o-rwx "), "{warning}");
}

#[test]
fn a_certificate_that_promises_an_answer_of_ocsp_is_served_with_the_one_beside_it() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
    // `status_request` (RFC 7633, 6).
    let feature = [0x30, 3, 2, 1, 5].to_vec();
    let feature = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], feature);
    params.custom_extensions.push(feature);
    let certificate = params.self_signed(&key).unwrap();
    let files = TlsFiles::new();
    files
        .write("a.crt", &certificate.pem())
        .write("a.key", &key.serialize_pem());
    let load = || files.load().unwrap().config.tls.identities.unwrap();
    let said = || -> Vec<String> {
        let loaded = load();
        let said = loaded.doubts(SystemTime::now());
        said.filter(|one| one.contains("OCSP")).collect()
    };
    let is_said = |words: &str| {
        let said = said();
        assert!(said.len() == 1 && said[0].contains(words), "{said:?}");
    };
    is_said("/a.ocsp, then reload");
    let path = files.0.path().join("a.ocsp");
    let good =
        |until| super::ocsp::tests::answer(certificate.der(), x509_ocsp::CertStatus::good(), until);
    fs::write(&path, good(4_000_000_000)).unwrap();
    assert_eq!(said(), [""; 0]);
    let staple = load().list[0].ocsp.clone().unwrap();
    assert_eq!(
        (staple.answer, staple.until),
        (good(4_000_000_000), 4_000_000_000)
    );
    fs::write(&path, good(1_000_000_000)).unwrap();
    is_said("a.ocsp is not shown: it has expired");
    // The certificate is served without it.
    fs::write(&path, "an answer").unwrap();
    is_said("a.ocsp is not shown: it is none in DER");
    assert_eq!(load().list[0].ocsp, None);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    is_said("a.ocsp is not shown: it is not a file");
}

#[test]
fn dates_are_looked_at_when_a_person_asks() {
    let (files, (certificate, key)) = (TlsFiles::new(), certificate(&["a.example"]));
    files
        .write("a.crt", &certificate.pem())
        .write("a.key", &key.serialize_pem());
    let tls = files.load().unwrap().config.tls;
    let mut identities = (**tls.identities.as_ref().unwrap()).clone();
    let identity = &mut identities.list[0];
    (identity.not_before, identity.not_after) = (1_000_000, 1_000_600);
    let at = |seconds| std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let check = |seconds| {
        identities
            .check_dates(at(seconds), None)
            .map_err(|e| e.to_string())
    };
    assert!(
        check(999_999)
            .unwrap_err()
            .contains("is not valid before 1970-01-12")
    );
    assert_eq!(check(1_000_000), Ok(()));
    assert_eq!(check(1_000_600), Ok(()));
    assert!(
        check(1_000_601)
            .unwrap_err()
            .contains("expired on 1970-01-12")
    );
    let serving = Some(&identities);
    assert_eq!(identities.check_dates(at(1_000_601), serving), Ok(()));
    let identity = &identities.list[0];
    assert!(!identity.is_due(at(1_000_500)));
    assert!(
        identity.is_due(at(1_000_501)),
        "a sixth of its life is left"
    );
    assert!(identity.is_due(at(2_000_000)));
    // Of ten years.
    let day = 24 * 60 * 60;
    let identity = &mut identities.list[0];
    identity.not_after = identity.not_before + 3650 * day;
    let (identity, days_before) = (&identities.list[0], |days: u64| {
        at(1_000_000 + (3650 - days) * day)
    });
    assert!(!identity.is_due(days_before(31_u64)) && identity.is_due(days_before(29)));
}

/// An authority with this name, in this kind of string, and who signs with its key.
fn authority(name: rcgen::DnValue) -> (rcgen::Certificate, rcgen::Issuer<'static, rcgen::KeyPair>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let certificate = params.self_signed(&key).unwrap();
    (certificate, rcgen::Issuer::new(params, key))
}

/// Behind the server's own certificate there may be two ways to two authorities (RFC 8446, 4.4.2), and what
/// an old authority calls itself may be another kind of string than in what it signs.
#[test]
fn a_chain_may_have_more_than_one_end_and_names_are_compared_as_text() {
    let printed = |name: &str| rcgen::DnValue::PrintableString(name.try_into().unwrap());
    let (root, root_signs) = authority(printed("root"));
    let (other, other_signs) = authority(printed("other"));
    let (own, key) = {
        let mut issuer = rcgen::CertificateParams::default();
        issuer.distinguished_name = rcgen::DistinguishedName::new();
        let name = rcgen::DnValue::Utf8String("root".into());
        issuer
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let issuer = rcgen::Issuer::new(issuer, root_signs.key());
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
        (params.signed_by(&key, &issuer).unwrap(), key)
    };
    // The root as the other one has signed it.
    let cross = {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = printed("root");
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.signed_by(root_signs.key(), &other_signs).unwrap()
    };
    let files = TlsFiles::new();
    files.write("a.key", &key.serialize_pem());
    let (stranger, _) = certificate(&["a.example"]);
    for (chain, good) in [
        (vec![&own, &root], true),
        (vec![&own, &cross, &root], true),
        (vec![&own, &root, &cross], true),
        (vec![&own, &other, &cross], true),
        (vec![&own, &own, &root, &root], true),
        (vec![&own, &stranger], false),
        (vec![&own, &root, &stranger], false),
        (vec![&own, &other, &root], false),
    ] {
        files.write(
            "a.crt",
            &chain.iter().map(|one| one.pem()).collect::<String>(),
        );
        let loaded = files.load().unwrap().config.tls.identities.unwrap();
        let shown = loaded.are_whole().map_err(|e| e.to_string());
        assert_eq!(shown.is_ok(), good, "{shown:?}");
        assert!(good || shown.unwrap_err().contains("out of order"));
    }
}

#[test]
fn a_certificate_may_name_a_service_by_uri_and_an_editors_file_is_none() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let uri = "spiffe://example/service".try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    let certificate = params.self_signed(&key).unwrap();
    let files = TlsFiles::new();
    files
        .write("a.crt", &certificate.pem())
        .write("a.key", &key.serialize_pem())
        .write(".#a.crt", "half of one");
    let identities = files.load().unwrap().config.tls.identities.unwrap();
    identities.are_whole().unwrap();
    assert_eq!(
        (identities.list.len(), identities.list[0].names.len()),
        (1, 0)
    );
}

#[test]
fn a_redirect_goes_where_clients_find_tls() {
    let redirect = |value: &str| {
        let text = format!("name = \"http\"\nredirect = {value}\n");
        toml::from_str::<ListenerConfig>(&text).map(|listener| listener.redirect)
    };
    let https = |port| Ok(Some(Redirect::Https { port }));
    assert_eq!(redirect("\"https\""), https(None));
    assert_eq!(redirect("\"https:8443\""), https(Some(8443)));
    for wrong in ["http", "https:", "https:0", "https:x", "https:70000"] {
        let error = redirect(&format!("\"{wrong}\"")).unwrap_err();
        assert!(error.to_string().contains("https:PORT"), "{error}");
    }
    for port in [None, Some(8443)] {
        let text = String::from(Redirect::Https { port });
        assert_eq!(Redirect::try_from(text), Ok(Redirect::Https { port }));
    }
    let port = |addresses: &[&str]| {
        let listeners = addresses.iter().map(|address| ListenerConfig {
            tls: true,
            ..ListenerConfig::new("https", Some(address))
        });
        let config = Config {
            listeners: listeners.collect(),
            ..Config::default()
        };
        config.https_port()
    };
    assert_eq!(port(&["[::]:8443"]), Some(8443));
    assert_eq!(port(&["127.0.0.1:9443", "[::]:443"]), Some(443));
    assert_eq!(port(&["127.0.0.1:0", "unix:/run/x"]), None);
}

#[test]
fn a_redirect_needs_somewhere_to_go() {
    let main = "[[listener]]\nname = \"http\"\naddress = \"[::]:80\"\nredirect = \"https\"\n";
    let error = Etc::new().file("web.toml", main).error(&sources());
    assert!(error.contains("no listener with `tls = true`"), "{error}");
}
