//! Whoever answers may be anybody.

use super::*;

/// Answers for the service in a process of its own, whose number it says.
#[test]
#[ignore = "run by the next test"]
fn answers_in_its_own_process() {
    if !helper::is_helper() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = std::os::unix::net::UnixListener::bind("control.sock").unwrap();
        listener.set_nonblocking(true).unwrap();
        let status = Status {
            owner_pid: std::fs::read_to_string("told").unwrap().parse().unwrap(),
            ..serving()
        };
        let _owner = Owner::deaf(listener, status);
        helper::say(std::process::id());
        std::future::pending::<()>().await;
    });
}

#[tokio::test]
async fn reopen_signals_the_process_that_answers_and_no_other_that_it_names() {
    use std::io::BufRead;
    let place = Place::new();
    let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
    std::fs::write(place.path("told"), bystander.id().to_string()).unwrap();
    let test = "cli::client::tests::hostile::answers_in_its_own_process";
    let mut owner = helper::command("", test)
        .current_dir(place.dir.path())
        .spawn()
        .unwrap();
    let said = io::BufReader::new(owner.stdout.take().unwrap());
    let mut lines = said.lines().map(Result::unwrap);
    let ready = lines.find_map(|line| helper::said(&line).map(str::to_owned));
    assert_eq!(ready.unwrap(), owner.id().to_string());
    assert_eq!(place.ask(Ask::Reopen).await, exit::OK);
    assert_eq!(owner.wait().unwrap().signal(), Some(10));
    assert!(bystander.try_wait().unwrap().is_none());
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

/// What a worker that somebody else controls could answer in the service's place.
#[tokio::test]
async fn a_hostile_answer_gains_nothing_and_is_said() {
    // A path of its choice: compared, not written to.
    let mut status = serving();
    status.disk.path = "/usr/bin/passwd".into();
    let place = Place::new();
    let owner = Owner::deaf(place.listener(), status);
    let binary = Some("./new".into());
    let order = UpgradeOrder::default();
    let ask = Ask::Upgrade(Upgrade { binary, order });
    assert_eq!(place.ask(ask).await, exit::FAILED);
    let said = place.err.text();
    assert!(said.contains("./new was not put in place"), "{said}");
    assert!(said.contains("/usr/bin/passwd"), "{said}");

    // A process of its choice, which never ends: a stop does not wait for it.
    let mut sleep = Command::new("sleep");
    sleep.arg("60");
    if nix::unistd::geteuid().is_root() {
        std::os::unix::process::CommandExt::uid(&mut sleep, 65_534);
    }
    let mut another = sleep.spawn().unwrap();
    let never = if nix::unistd::geteuid().is_root() {
        another.id()
    } else {
        1
    };
    let path = place.path("control.sock");
    drop(owner);
    std::fs::remove_file(&path).unwrap();
    let gone = path.clone();
    let status = Status {
        owner_pid: never,
        ..serving()
    };
    let _owner = Owner::start(place.listener(), status, move |_, answer| {
        std::fs::remove_file(&gone).unwrap();
        answer.end(verdict(0, "stopping"));
    });
    assert_eq!(place.ask(Ask::Stop).await, exit::OK);
    another.kill().unwrap();
    another.wait().unwrap();
}

#[tokio::test]
async fn no_byte_of_an_answer_commands_the_terminal() {
    let hostile = "\x1b]0;owned\x07\u{9b}2J\u{202e}";
    let mut status = probation();
    status.version = hostile.into();
    status.warnings = vec![hostile.into()];
    status.listeners[0].address = hostile.into();
    status.masters[0].phase = hostile.into();
    status.masters[0].workers[0].state = hostile.into();
    status.disk.path = hostile.into();
    status.last = Some(Last {
        reason: Some(hostile.into()),
        from: hostile.into(),
        ..ended(Outcome::RolledBack)
    });
    let place = Place::new();
    let _owner = Owner::start(place.listener(), status, move |_, answer| {
        answer.step(step(hostile));
        answer.end(verdict(1, hostile));
    });
    let harmless = |text: &str| {
        let bad = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!text.contains(bad), "{text:?}");
        assert!(text.contains("owned"), "{text}");
    };
    for json in [false, true] {
        let watch = false;
        assert_eq!(place.ask(Ask::Status { json, watch }).await, exit::OK);
    }
    assert_eq!(place.ask(Ask::Commit).await, exit::FAILED);
    harmless(&place.out.text());
    harmless(&place.err.text());
    place.record(&Last {
        reason: Some(hostile.into()),
        ..ended(Outcome::Failed)
    });
    for id in [None, Some("3fa9".to_owned())] {
        for json in [false, true] {
            let place = Place {
                out: Buffer::default(),
                err: Buffer::default(),
                dir: tempfile::tempdir().unwrap(),
                patience: PATIENCE,
            };
            place.record(&Last {
                reason: Some(hostile.into()),
                ..ended(Outcome::Failed)
            });
            let id = id.clone();
            assert_eq!(place.ask(Ask::History { id, json }).await, exit::OK);
            harmless(&place.out.text());
        }
    }
}

/// Answers every connection with this head, and then with this again and again.
fn endless(listener: std::os::unix::net::UnixListener, again: &'static str) {
    let listener = UnixListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let mut say = "HTTP/1.1 200 OK\r\n\r\n".to_owned();
                while stream.write_all(say.as_bytes()).await.is_ok() {
                    say = again.repeat(500);
                }
            });
        }
    });
}

#[tokio::test]
async fn an_answer_without_an_end_is_left() {
    for again in [
        " ",
        "junk\n",
        "{\"event\":\"step\",\"generation\":1,\"phase\":\"x\",\"message\":\"and on\"}\n",
    ] {
        let place = Place::new();
        endless(place.listener(), again);
        for ask in [Ask::Commit, upgrade(Until::Takeover)] {
            assert_eq!(place.ask(ask.clone()).await, exit::FAILED, "{again:?}");
            let said = place.err.text();
            assert!(
                said.contains("the answer does not end"),
                "{again:?}: {said}"
            );
        }
        let (json, watch) = (true, false);
        let code = place.ask(Ask::Status { json, watch }).await;
        assert_eq!(code, exit::FAILED, "{again:?}");
    }
}

#[tokio::test]
async fn nonsense_on_the_socket_is_a_failure_and_not_a_hang() {
    for answer in [
        "",
        "220 smtp.example ESMTP\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull",
        "HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n{",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 503 Moved\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n",
    ] {
        let place = Place::new();
        speaking(place.listener(), vec![answer]);
        for ask in [
            Ask::Status {
                json: false,
                watch: false,
            },
            wait(None),
            Ask::Commit,
            upgrade(Until::Takeover),
        ] {
            let code = place.ask(ask.clone()).await;
            assert_eq!(code, exit::FAILED, "{answer:?} {ask:?}");
        }
    }
}
