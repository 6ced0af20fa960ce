//! What the packages carry follows from the source: these files are written down, and this says when
//! they are out of date.

mod kit;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use handover::config::{Config, ListenerConfig};

#[test]
fn what_follows_from_other_files_is_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let program = kit::build::example("package-files");
    let made = Command::new(program).arg(dir.path()).status().unwrap();
    assert!(made.success());
    for file in [
        "packaging/man/handover.1",
        "packaging/completions/handover.bash",
        "packaging/completions/_handover",
        "packaging/completions/handover.fish",
        "examples/greeter/package/greeter.service",
        "examples/greeter/package/greeter-restore.service",
        "examples/greeter/package/greeter-restore.path",
        "examples/greeter/package/greeter.needrestart",
    ] {
        let new = fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(
            new == source(file),
            "{file} is out of date: cargo run --example package-files -- ."
        );
    }
}

#[test]
fn the_explained_configuration_says_every_key_and_its_default() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/etc/explained.toml");
    let loaded = Config::load(Some(&file), "handover", Config::default()).unwrap();
    let expected = Config {
        listeners: vec![ListenerConfig {
            name: "http".into(),
            address: Some("127.0.0.1:8080".into()),
            backlog: None,
            mode: None,
            group: None,
            tls: false,
            proxy_protocol: false,
            redirect: None,
        }],
        ..Config::default()
    };
    assert_eq!(loaded.config, expected);
    let manual = source("packaging/man/handover.toml.5");
    let explained = source("packaging/etc/explained.toml");
    for key in keys() {
        let line = |line: &str| {
            line.trim_start_matches("# ")
                .starts_with(&format!("{key} = "))
        };
        assert!(explained.lines().any(line), "{key} is not explained");
        assert!(manual.contains(&key), "handover.toml(5) lacks {key}");
    }
}

#[test]
fn the_installed_configuration_is_good() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/etc/handover.toml");
    Config::load(Some(&file), "handover", Config::default()).unwrap();
}

/// Those that a configuration can have, without the optional ones' values.
fn keys() -> BTreeSet<String> {
    let all = Config {
        listeners: vec![ListenerConfig {
            name: "http".into(),
            address: Some("[::]:80".into()),
            backlog: Some(1),
            mode: Some("0660".into()),
            group: Some("x".into()),
            tls: true,
            proxy_protocol: false,
            redirect: Some(handover::config::Redirect::Https { port: None }),
        }],
        app: Some(handover::config::App {
            ready: Some("/".into()),
            ..Default::default()
        }),
        ..Config::default()
    };
    let toml::Value::Table(table) = toml::Value::try_from(all).unwrap() else {
        panic!("a configuration is a table");
    };
    let mut keys: BTreeSet<String> = [
        "root",
        "at",
        "listen",
        "memory",
        "health",
        "directory",
        "client_ca",
    ]
    .map(str::to_owned)
    .into();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => keys.extend(inner.into_iter().map(|(key, _)| key)),
            toml::Value::Array(listeners) => {
                let first = listeners[0].as_table().unwrap();
                keys.extend(first.keys().cloned());
            }
            _ => {
                keys.insert(key);
            }
        }
    }
    keys
}

fn source(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{file}: {e}"))
}
