//! What masters say to each other, in files: `tests/golden/<release>/<message>.json`.
//!
//! A released file is never changed: a master of any later version may meet a master that still
//! says it, so it decodes for ever and nothing in it is lost. The files of the version in
//! `Cargo.toml` are what this build says; after a change that is meant,
//! `GOLDEN=write cargo test --test golden` writes them anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use handover::api::{Connections, Master, Phase, UpgradeOrder, Worker};
use handover::config::{Config, ListenerConfig, Upstream};
use handover::machine::hosting::RunningApp;
use handover::machine::message::{
    Hello, Identity, Inheritance, Inherited, KeptConfig, Lingering, ListenerSource, Message,
    Protocol, Supersede,
};
use serde_json::{Value, json};

#[test]
fn this_version_says_what_its_files_say() {
    let folder = golden().join(env!("CARGO_PKG_VERSION"));
    let write = std::env::var_os("GOLDEN").is_some_and(|what| what == "write");
    let mut names = BTreeSet::new();
    for (name, message) in messages() {
        let path = folder.join(format!("{name}.json"));
        let says = serde_json::to_value(&message).expect("a message");
        if write {
            let text = serde_json::to_string_pretty(&says).expect("JSON");
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(&path, text + "\n").expect("a golden file");
        }
        assert_eq!(read(&path), says, "{}", path.display());
        assert!(names.insert(format!("{name}.json")), "{name} twice");
    }
    let files: BTreeSet<_> = list(&folder).into_iter().collect();
    assert_eq!(files, names, "files that nobody says");
}

/// A file that is only half understood would pass a test that decodes it: what it says must come
/// out again.
#[test]
fn every_file_ever_released_is_understood() {
    for path in files() {
        let says = read(&path);
        let message: Message = serde_json::from_value(says.clone())
            .unwrap_or_else(|e| panic!("cannot decode {}: {e}", path.display()));
        assert_ne!(message, Message::Unknown, "{}", path.display());
        let again = serde_json::to_value(&message).expect("a message");
        assert_holds(&again, &says, &path);
    }
}

#[test]
fn every_message_and_every_descriptor_has_a_file() {
    let mut seen = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for (_, message) in messages() {
        seen.insert(kind(&message));
        if let Message::Inheritance(will) = &message {
            kinds.extend(will.fds.iter().map(descriptor));
        }
    }
    assert_eq!(seen, (0..=14).collect(), "by the numbers in kind()");
    assert_eq!(kinds, (0..=8).collect(), "by the numbers in descriptor()");
}

#[test]
fn what_a_newer_version_adds_is_ignored() {
    for path in files() {
        let says = read(&path);
        let message: Message = serde_json::from_value(says.clone()).expect("decodes");
        let mut newer = says;
        // Configurations are carried, not read; an upstream is one of two words.
        add_to_every_object(&mut newer, &["config", "state", "upstreams"]);
        let decoded: Message = serde_json::from_value(newer)
            .unwrap_or_else(|e| panic!("{} with new fields: {e}", path.display()));
        assert_eq!(decoded, message, "{}", path.display());
    }
}

#[test]
fn messages_and_descriptors_of_a_newer_version_are_told_apart_not_refused() {
    let message = |value| serde_json::from_value::<Message>(value).expect("decodes");
    let later = json!({"type": "of_the_future", "what": [1, 2], "type_of_type": {}});
    assert_eq!(message(later), Message::Unknown);
    assert_eq!(message(json!({"type": "of_the_future"})), Message::Unknown);
    let kind: Inherited =
        serde_json::from_value(json!({"kind": "udp", "name": "quic"})).expect("decodes");
    assert_eq!(kind, Inherited::Unknown);
    // A message without a type is none at all.
    serde_json::from_value::<Message>(json!({"what": 1})).expect_err("no type");
}

/// An older version leaves out what it does not know yet.
#[test]
fn what_may_be_missing_may_be_missing() {
    let mut will = read(&golden().join("0.1.0/inheritance-least.json"));
    let fields = will.as_object_mut().expect("an object");
    fields.retain(|_, value| !value.is_null() && *value != json!([]) && *value != json!({}));
    fields.insert(
        "fds".into(),
        json!([{"kind": "listener", "name": "http", "source": "own"}]),
    );
    let message: Message = serde_json::from_value(will).expect("decodes");
    let Message::Inheritance(will) = message else {
        panic!("another message: {message:?}")
    };
    assert_eq!(will.probation_ms, None);
    assert_eq!(will.config, None);
    assert!(will.lingering.is_empty() && will.state.is_empty());
    let listener = Inherited::Listener {
        name: "http".into(),
        source: ListenerSource::Own,
        slot: None,
    };
    assert_eq!(will.fds, [listener]);

    let yields: Message =
        serde_json::from_value(json!({"type": "yield", "reason": "r"})).expect("decodes");
    let plain = Message::Yield {
        reason: "r".into(),
        retire: false,
        leaving: false,
        then: None,
    };
    assert_eq!(yields, plain);
}

/// Whoever gives an order must mean what we understand.
#[test]
fn unknown_fields_of_an_order_are_refused() {
    let order = |value| serde_json::from_value::<UpgradeOrder>(value);
    assert_eq!(
        order(json!({})).expect("all defaults"),
        UpgradeOrder::default()
    );
    let error = order(json!({"probation": "60s"})).expect_err("an unknown field");
    assert!(error.to_string().contains("probation_ms"), "{error}");
    order(json!({"hold": true, "until": "later"})).expect_err("an unknown word");
}

/// A newer version that goes back after the commit gives us what we ran with, not what it made of
/// it; what it made of it would be refused.
#[test]
fn a_configuration_comes_back_as_it_was_written() {
    let mut config = Config::default();
    config.listeners.push(listener());
    let kept = KeptConfig::of(&config);
    assert_eq!(kept.read().expect("our own"), config);
    let mut newer = serde_json::to_value(&kept).expect("JSON");
    newer["later"] = json!(true);
    let carried: KeptConfig = serde_json::from_value(newer.clone()).expect("not read yet");
    assert_eq!(serde_json::to_value(&carried).expect("JSON"), newer);
    carried.read().expect_err("a key that is not ours");
}

/// One of each, and the variants of what is optional.
fn messages() -> Vec<(&'static str, Message)> {
    let protocol = Protocol { major: 1, minor: 0 };
    let id = "0123456789abcdef0123456789abcdef";
    let identity = |generation, version: &str| Identity {
        generation,
        version: version.into(),
        build_id: "c3d4a2f96e1b08d75522b1a6f0e4937c8d1b2a30".into(),
    };
    let hello = Hello {
        protocol,
        version: "1.4.0".into(),
        build_id: "5b4e0f9a2c7d316688ab90cd12ef34a5b6c7d8e9".into(),
        pid: 4711,
    };
    let of_listener = |source, slot| Inherited::Listener {
        name: "http".into(),
        source,
        slot,
    };
    let least = Inheritance {
        protocol,
        pid: 4000,
        from: identity(6, "1.3.2"),
        generation: 7,
        upgrade_id: id.into(),
        hold: false,
        started_at_ms: 1_763_824_443_125,
        probation_ms: None,
        path: "/usr/bin/handover".into(),
        cwd: "/".into(),
        config: None,
        back: false,
        fds: Vec::new(),
        lingering: Vec::new(),
        unit_rev: None,
        drained: Connections::default(),
        app: None,
        release: None,
        state: BTreeMap::new(),
    };
    let config = Config {
        listeners: vec![listener()],
        ..Config::default()
    };
    let full = Inheritance {
        hold: true,
        probation_ms: Some(90_000),
        config: Some(KeptConfig::of(&config)),
        fds: vec![
            of_listener(ListenerSource::Own, Some(0)),
            of_listener(ListenerSource::Own, None),
            of_listener(ListenerSource::Systemd, None),
            Inherited::Control,
            Inherited::Handoff,
            Inherited::Metrics,
            Inherited::Keeper,
            Inherited::App,
            Inherited::TicketKeys,
            Inherited::Identities,
        ],
        lingering: vec![Lingering {
            pid: 3990,
            identity: identity(5, "1.3.1"),
            left_ms: Some(540_000),
            hurried: true,
        }],
        unit_rev: Some("1".into()),
        drained: Connections {
            passed: 64,
            finished: 2,
            cut: 1,
            tls: handover::api::Fates::default(),
            http2: handover::api::Fates::default(),
        },
        app: Some(RunningApp {
            config: json!({"directory": "/srv/blog/current", "command": ["./blog", "{socket}"]}),
            release: "/srv/blog/7".into(),
            identity: "2049:131:1763824443.000000000".into(),
            upstreams: vec![
                Upstream::Unix("/run/blog/app/g6-1.0.sock".into()),
                Upstream::Port(40_123),
            ],
            supervisor: 4003,
        }),
        state: BTreeMap::from([("counters".into(), json!({"requests": 12}))]),
        ..least.clone()
    };
    let master = Master {
        pid: 4711,
        generation: 7,
        version: "1.4.0".into(),
        phase: Phase::Probation.into(),
        private_kib: 2150,
        workers: vec![Worker {
            pid: 4712,
            generation: 7,
            state: "accepting".into(),
            connections: 31,
            requests: 1207,
        }],
        app: None,
    };
    let yields = |retire, leaving, then| Message::Yield {
        reason: "no worker stays up".into(),
        retire,
        leaving,
        then,
    };
    let supersede = |hold, probation_ms| Supersede {
        id: id.into(),
        hold,
        probation_ms,
        release: false,
    };
    vec![
        ("hello", Message::Hello(hello)),
        ("inheritance", Message::Inheritance(Box::new(full))),
        ("inheritance-least", Message::Inheritance(Box::new(least))),
        ("fds", Message::Fds { count: 253 }),
        ("ready", Message::Ready),
        ("takeover", Message::Takeover),
        ("ticket-keys", Message::TicketKeys),
        ("wake", Message::Wake),
        ("awake", Message::Awake { reason: None }),
        (
            "awake-not",
            Message::Awake {
                reason: Some("the application exited with code 3".into()),
            },
        ),
        ("heartbeat", Message::Heartbeat),
        ("commit", Message::Commit),
        ("release", Message::Release),
        (
            "yield",
            yields(true, false, Some(supersede(true, Some(30_000)))),
        ),
        (
            "yield-configured",
            yields(true, false, Some(supersede(false, None))),
        ),
        ("yield-leaving", yields(true, true, None)),
        ("yield-least", yields(false, false, None)),
        (
            "retire",
            Message::Retire {
                reason: "rolled back by an order".into(),
                disk: None,
            },
        ),
        ("status-question", Message::Status { master: None }),
        (
            "status-answer",
            Message::Status {
                master: Some(Box::new(master)),
            },
        ),
        (
            "drained",
            Message::Drained {
                ms: 1830,
                connections: Connections {
                    passed: 412,
                    finished: 7,
                    cut: 1,
                    tls: handover::api::Fates::default(),
                    http2: handover::api::Fates::default(),
                },
            },
        ),
    ]
}

fn listener() -> ListenerConfig {
    ListenerConfig {
        name: "http".into(),
        address: Some("[::]:80".into()),
        backlog: Some(4096),
        mode: None,
        group: None,
        tls: false,
        proxy_protocol: false,
        redirect: None,
    }
}

/// A new message does not compile until it has a number here, and has no file until the test that
/// counts them is told.
fn kind(message: &Message) -> u8 {
    match message {
        Message::Hello(_) => 0,
        Message::Inheritance(_) => 1,
        Message::Fds { .. } => 2,
        Message::Ready => 3,
        Message::Takeover => 4,
        Message::Heartbeat => 5,
        Message::Commit => 6,
        Message::Release => 7,
        Message::Yield { .. } => 8,
        Message::Retire { .. } => 9,
        Message::Status { .. } => 10,
        Message::Drained { .. } => 11,
        Message::TicketKeys => 12,
        Message::Wake => 13,
        Message::Awake { .. } => 14,
        Message::Unknown => u8::MAX,
    }
}

fn descriptor(inherited: &Inherited) -> u8 {
    match inherited {
        Inherited::Listener { source, .. } => match source {
            ListenerSource::Systemd => 0,
            ListenerSource::Own => 1,
        },
        Inherited::Control => 2,
        Inherited::Handoff => 3,
        Inherited::Keeper => 4,
        Inherited::Metrics => 5,
        Inherited::App => 6,
        Inherited::TicketKeys => 7,
        Inherited::Identities => 8,
        Inherited::Unknown => u8::MAX,
    }
}

/// Everything in `part` is in `whole`.
fn assert_holds(whole: &Value, part: &Value, path: &Path) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (key, value) in part {
                let kept = whole.get(key).unwrap_or(&Value::Null);
                assert_holds(kept, value, path);
            }
        }
        (Value::Array(whole), Value::Array(part)) if whole.len() == part.len() => {
            for (whole, part) in whole.iter().zip(part) {
                assert_holds(whole, part, path);
            }
        }
        _ => assert_eq!(whole, part, "{} says it, and it was lost", path.display()),
    }
}

fn add_to_every_object(value: &mut Value, but: &[&str]) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                if !but.contains(&key.as_str()) {
                    add_to_every_object(value, but);
                }
            }
            fields.insert(
                "of_the_future".into(),
                json!({"some": ["thing", null, 1.5]}),
            );
        }
        Value::Array(values) => {
            for value in values {
                add_to_every_object(value, but);
            }
        }
        _ => {}
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Of every release.
fn files() -> Vec<PathBuf> {
    let releases = list(&golden());
    assert!(!releases.is_empty(), "no golden files");
    releases
        .iter()
        .map(|release| golden().join(release))
        .flat_map(|folder| list(&folder).into_iter().map(move |file| folder.join(file)))
        .collect()
}

fn list(folder: &Path) -> Vec<String> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()));
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

fn read(path: &Path) -> Value {
    let text =
        fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{} is no JSON: {e}", path.display()))
}
