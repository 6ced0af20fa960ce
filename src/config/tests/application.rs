//! A hosted application.

use super::*;

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
            &format!("{good}stop_signal = \"STOP\"\n"),
            "is not a signal",
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
