//! What cannot be is shown where it stands.

use super::*;

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
fn an_empty_root_is_not_the_directory_of_the_file() {
    let error = error_of("[site]\nroot = \"\"\n");
    assert!(error.contains("`site.root`: is empty"), "{error}");
    assert!(error.contains("web.toml:2"), "{error}");
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
