//! What is typed, and what is meant by it.

use std::time::Duration;

use super::*;
use crate::api::Until;

const DAEMON: Program = Program {
    name: "handover",
    version: "1.4.2",
    about: "Replaces itself",
    bare: Bare::Help,
    site: true,
    own: Own {
        arguments: None,
        commands: None,
    },
};
const HELLO: Program = Program {
    name: "hello",
    bare: Bare::Run,
    site: false,
    ..DAEMON
};

fn typed_for(program: &Program, line: &str) -> Result<Invocation, Told> {
    let argv = std::iter::once(program.name).chain(line.split_ascii_whitespace());
    interpret(program, argv)
}

fn typed(line: &str) -> Result<Invocation, Told> {
    typed_for(&DAEMON, line)
}

fn meant(line: &str) -> Command {
    typed(line)
        .unwrap_or_else(|told| panic!("{line}: {}", told.text()))
        .command
}

fn refused(line: &str) -> String {
    let told = typed(line).expect_err(line);
    assert_eq!(told.exit(), api::exit::USAGE, "{line}: {}", told.text());
    told.text()
}

#[test]
fn clap_finds_nothing_wrong_with_the_definition() {
    command(&DAEMON).debug_assert();
    command(&HELLO).debug_assert();
}

#[test]
fn every_command_means_what_it_says() {
    let ask = |line: &str| match meant(line) {
        Command::Ask(ask) => ask,
        other => panic!("{other:?}"),
    };
    assert_eq!(meant("run"), Command::Run(Run::default()));
    assert_eq!(
        meant("run --listen [::]:80 --listen unix:/x --root /srv --workers 4"),
        Command::Run(Run {
            listen: vec!["[::]:80".into(), "unix:/x".into()],
            root: Some("/srv".into()),
            workers: Some(Workers::Count(4)),
            ..Run::default()
        })
    );
    assert_eq!(
        meant("run --app /srv/blog -- gunicorn -b unix:{socket} blog:app"),
        Command::Run(Run {
            app: Some("/srv/blog".into()),
            command: ["gunicorn", "-b", "unix:{socket}", "blog:app"]
                .map(Into::into)
                .into(),
            ..Run::default()
        })
    );
    assert_eq!(meant("check"), Command::Check { preflight: false });
    assert_eq!(ask("apply"), Ask::Apply);
    assert_eq!(ask("commit"), Ask::Commit);
    assert_eq!(ask("rollback"), Ask::Rollback);
    assert_eq!(ask("reload"), Ask::Reload);
    assert_eq!(ask("stop"), Ask::Stop);
    assert_eq!(ask("wait"), Ask::Wait(Wait::default()));
    let id = Some("3fa9".to_owned());
    let by_id = Wait {
        id: id.clone(),
        ..Wait::default()
    };
    assert_eq!(ask("wait 3FA9"), Ask::Wait(by_id));
    let version = Wait {
        version: Some("2.0.0".into()),
        timeout: Some(Duration::from_secs(300)),
        ..Wait::default()
    };
    let typed = "wait --version 2.0.0 --timeout 5m";
    assert_eq!(ask(typed), Ask::Wait(version));
    assert_eq!(ask("list"), Ask::List);
    let (json, watch) = (true, true);
    assert_eq!(ask("status --json --watch"), Ask::Status { json, watch });
    assert_eq!(ask("history 3fa9 --json"), Ask::History { id, json });
}

#[test]
fn an_upgrade_carries_what_was_typed_about_it() {
    let upgrade = |line: &str| match meant(line) {
        Command::Ask(Ask::Upgrade(upgrade)) => upgrade,
        other => panic!("{other:?}"),
    };
    assert_eq!(upgrade("upgrade"), Upgrade::default());
    assert_eq!(
        upgrade("upgrade --binary ./new --probation 1m --supersede --end-oldest --until commit"),
        Upgrade {
            binary: Some("./new".into()),
            order: UpgradeOrder {
                id: None,
                probation_ms: Some(60_000),
                hold: false,
                supersede: true,
                end_oldest: true,
                release: None,
                until: Until::Commit,
            }
        }
    );
    assert_eq!(
        upgrade("upgrade --probation 0s").order.probation_ms,
        Some(0)
    );
    assert!(upgrade("upgrade --hold").order.hold);
}

#[test]
fn nginx_flags_mean_the_same_as_commands() {
    assert_eq!(meant("-t"), meant("check"));
    assert_eq!(meant("-s stop"), meant("stop"));
    assert_eq!(meant("-s quit"), meant("stop"));
    assert_eq!(meant("-s reload"), meant("reload"));
    assert_eq!(meant("-s reopen"), Command::Ask(Ask::Reopen));
    assert_eq!(meant("-sreload"), meant("reload"));
    assert_eq!(meant("-c /etc/x.toml"), Command::Run(Run::default()));
    let check = typed("-t -c x.toml").unwrap();
    assert_eq!(check.command, Command::Check { preflight: false });
    assert_eq!(check.globals.config, Some("x.toml".into()));
}

#[test]
fn the_version_is_said_in_nginx_words() {
    for line in ["-v", "--version"] {
        let told = typed(line).unwrap_err();
        assert_eq!(told.exit(), 0);
        assert_eq!(told.text(), "handover version: handover/1.4.2\n");
    }
    let told = typed("-V").unwrap_err();
    assert_eq!(told.exit(), 0);
    assert!(
        told.text()
            .starts_with("handover version: handover/1.4.2\n")
    );
    assert!(told.text().contains("protocol: 1.0"), "{}", told.text());
}

#[test]
fn global_flags_stand_on_either_side() {
    let expected = Globals {
        name: Some("blue".into()),
        runtime_dir: Some("/r".into()),
        state_dir: Some("/s".into()),
        config: Some("/c".into()),
    };
    for line in [
        "--name blue --runtime-dir /r --state-dir /s --config /c status",
        "status --name blue --runtime-dir /r --state-dir /s --config /c",
        "--name blue --state-dir=/s status -c /c --runtime-dir=/r",
    ] {
        assert_eq!(typed(line).unwrap().globals, expected, "{line}");
    }
}

#[test]
fn what_makes_no_sense_is_64() {
    for line in [
        "explode",
        "--explode",
        "upgrade --explode",
        "upgrade extra",
        "upgrade --probation soon",
        "upgrade --probation 10s --hold",
        "upgrade --until tomorrow",
        "run --workers 0",
        "run --workers many",
        "wait xyz",
        "wait 3f",
        "history ../../etc/passwd",
        "status --name ../x",
        "-s explode",
        "-s",
        "-t -s stop",
        "-t status",
        "status -t",
        "-s reload status",
        "--name blue",
    ] {
        refused(line);
    }
    assert!(refused("upgrade --probation soon").contains("such as 90s"));
}

#[test]
fn help_is_0_and_names_the_exit_codes() {
    for line in ["--help", "-h", "help", "upgrade --help", "help upgrade"] {
        let told = typed(line).unwrap_err();
        assert_eq!(told.exit(), 0, "{line}");
        assert!(told.text().contains("Usage:"), "{line}: {}", told.text());
    }
    assert!(
        typed("--help")
            .unwrap_err()
            .text()
            .contains("69 nothing is running")
    );
}

#[test]
fn nothing_typed_is_help_for_the_daemon_and_a_start_for_an_application() {
    let help = refused("");
    assert!(help.contains("upgrade"), "{help}");
    assert!(help.starts_with("Replaces itself"), "{help}");
    let run = Command::Run(Run::default());
    assert_eq!(typed_for(&HELLO, "").unwrap().command, run);
    assert_eq!(typed_for(&HELLO, "--name blue").unwrap().command, run);
}

#[test]
fn an_application_without_a_directory_knows_no_root() {
    let told = typed_for(&HELLO, "run --root /srv").unwrap_err();
    assert_eq!(told.exit(), api::exit::USAGE);
    let help = typed_for(&HELLO, "run --help").unwrap_err().text();
    assert!(!help.contains("--root"), "{help}");
    assert!(help.contains("--listen"), "{help}");
}
