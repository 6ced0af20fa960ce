//! Every value survives being written and read.

use super::*;

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
