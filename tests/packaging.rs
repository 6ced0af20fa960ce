//! What the packages carry follows from the source: these files are written down, and this says when
//! they are out of date.

mod kit;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use handover::config::{Config, ListenerConfig};

#[test]
fn the_manual_page_and_the_completions_are_those_of_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let program = kit::build::example("package-files");
    let made = Command::new(program).arg(dir.path()).status().unwrap();
    assert!(made.success());
    for file in [
        "man/handover.1",
        "completions/handover.bash",
        "completions/_handover",
        "completions/handover.fish",
    ] {
        let new = fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(
            new == source(&format!("packaging/{file}")),
            "packaging/{file} is out of date: cargo run --example package-files -- packaging"
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

/// An author takes the units as they are, with another name.
#[test]
fn the_units_of_the_example_are_those_of_the_daemon() {
    for unit in [".service", "-restore.service", "-restore.path"] {
        let ours = directives(&source(&format!("systemd/handover{unit}")));
        let theirs = directives(&source(&format!("examples/greeter/package/greeter{unit}")));
        let ours: Vec<_> = ours
            .iter()
            .map(|line| line.replace("handover", "greeter"))
            .collect();
        assert_eq!(theirs, ours, "greeter{unit}");
    }
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
        }],
        ..Config::default()
    };
    let toml::Value::Table(table) = toml::Value::try_from(all).unwrap() else {
        panic!("a configuration is a table");
    };
    let mut keys: BTreeSet<String> = ["root", "health"].map(str::to_owned).into();
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

fn directives(unit: &str) -> Vec<String> {
    unit.lines()
        .filter(|line| line.contains('=') && !line.starts_with('#'))
        .filter(|line| !line.starts_with("Documentation=") && !line.starts_with("Description="))
        .map(str::to_owned)
        .collect()
}

fn source(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{file}: {e}"))
}
