//! What is asked for is ordered, told as it goes, and ends with its exit code.

use super::*;

#[tokio::test]
async fn an_order_is_told_as_it_goes_and_ends_with_its_exit_code() {
    for exit in [0, 1, 75, 76, 78] {
        let place = Place::new();
        let owner = Owner::start(place.listener(), serving(), move |_, answer| {
            answer.step(step("1.0 (g8) serves; g9 gets ready"));
            answer.step(step("pre-flight passed"));
            answer.step(step("workers are\n\x1b[2Jready"));
            answer.end(verdict(exit, "that was it"));
        });
        assert_eq!(place.ask(upgrade(Until::Takeover)).await, exit);
        let steps = "1.0 (g8) serves; g9 gets ready\n\
                     pre-flight passed\nworkers are \\x1b[2Jready\n";
        if exit == 0 {
            assert_eq!(place.out.text(), format!("{steps}that was it\n"));
            assert_eq!(place.err.text(), "");
        } else {
            assert_eq!(place.out.text(), steps);
            assert_eq!(place.err.text(), "handover: that was it\n");
        }
        assert_eq!(owner.id().len(), 32);
    }
}

#[tokio::test]
async fn each_command_places_its_order() {
    for (ask, verb) in [
        (Ask::Apply, "apply"),
        (Ask::Commit, "commit"),
        (Ask::Rollback, "rollback"),
        (Ask::Reload, "reload"),
    ] {
        let place = Place::new();
        let owner = Owner::start(place.listener(), serving(), |_, answer| {
            answer.end(verdict(0, "done"));
        });
        assert_eq!(place.ask(ask).await, 0);
        assert_eq!(owner.orders.lock().unwrap()[0].verb(), verb);
    }
}

#[tokio::test]
async fn what_is_refused_before_it_is_an_order_keeps_its_exit_code() {
    let place = Place::new();
    let (handle, _desk) = control::desk();
    let (_close, closing) = watch::channel(false);
    let access = Arc::new(Access::new(None).but_not(|_| true));
    let listener = UnixListener::from_std(place.listener()).unwrap();
    let router = control::router(handle);
    let limits = Limits::default();
    tokio::spawn(control::serve(listener, router, access, limits, closing));
    assert_eq!(place.ask(Ask::Commit).await, exit::DENIED);
    assert!(
        place.err.text().contains("is a worker"),
        "{}",
        place.err.text()
    );
}

#[tokio::test]
async fn nothing_running_is_69_and_says_where_and_what_to_do() {
    for ask in [
        upgrade(Until::Takeover),
        Ask::Apply,
        Ask::Commit,
        Ask::Rollback,
        Ask::Reload,
        Ask::Reopen,
        wait(None),
        wait(Some("3fa9")),
        Ask::Status {
            json: true,
            watch: false,
        },
        Ask::Status {
            json: true,
            watch: true,
        },
    ] {
        let mut place = Place::new();
        // There never was anybody: nothing to be patient about.
        place.patience.gap = Duration::from_secs(3600);
        assert_eq!(place.ask(ask.clone()).await, exit::UNAVAILABLE, "{ask:?}");
        let said = place.err.text();
        let socket = place.path("control.sock").display().to_string();
        assert!(said.contains(&socket), "{said}");
        assert!(
            said.contains("start it with `handover --runtime-dir"),
            "{said}"
        );
        assert_eq!(place.out.text(), "");
        // A socket nobody listens on.
        drop(place.listener());
        assert_eq!(place.ask(ask).await, exit::UNAVAILABLE);
    }
}

#[tokio::test]
async fn who_breaks_off_is_told_what_becomes_of_the_order() {
    let place = Place::new();
    let broken_off = async |ask: Ask, when: Pin<Box<dyn Future<Output = ()>>>| {
        let globals = Globals {
            runtime_dir: Some(place.dir.path().to_owned()),
            ..Globals::default()
        };
        let env = Env::default();
        let put: &Put<'_> = &|_| Ok(());
        let client = Client::new("handover", "handover", &globals, &env, installation(put));
        let (out, err) = (Box::new(place.out.clone()), Box::new(place.err.clone()));
        let mut screen = Screen::to("handover", out, err);
        within(client.perform_until(when, &ask, &mut screen)).await
    };
    // Somebody accepts, and says nothing.
    let silent = place.listener();
    let now = Box::pin(std::future::ready(()));
    let upgrade = Ask::Upgrade(Upgrade {
        binary: Some("x".into()),
        ..Upgrade::default()
    });
    assert_eq!(broken_off(upgrade, now).await, 130);
    assert!(place.err.text().contains("nothing was ordered"));
    drop(silent);
    std::fs::remove_file(place.path("control.sock")).unwrap();
    for (ask, words) in [
        (Ask::Apply, "`handover --runtime-dir"),
        (Ask::Upgrade(Upgrade::default()), "rollback` gives it up"),
        (Ask::Commit, "status` says how far it is"),
    ] {
        let (given, mut orders) = tokio::sync::mpsc::unbounded_channel();
        let owner = Owner::start(place.listener(), serving(), move |order, answer| {
            given.send((order, answer)).unwrap();
        });
        let when = Box::pin(async move { drop(orders.recv().await) });
        assert_eq!(broken_off(ask, when).await, 130);
        let told = place.err.text();
        assert!(told.contains("goes on") && told.contains(words), "{told}");
        drop(owner);
        std::fs::remove_file(place.path("control.sock")).unwrap();
    }
}

#[test]
fn a_service_is_started_by_what_it_was_asked_for_with() {
    let mut globals = Globals {
        name: Some("blog".into()),
        ..Globals::default()
    };
    let by_name = "`systemctl start blog` or `handover --name blog run`";
    assert_eq!(start("handover", &globals, "blog", false), by_name);
    globals.runtime_dir = Some("/run/blog".into());
    let by_unit = "`systemctl start blog` or `handover --name blog --runtime-dir /run/blog run`";
    assert_eq!(start("handover", &globals, "blog", true), by_unit);
    globals.runtime_dir = Some("/tmp/blog".into());
    let by_directory = "`handover --name blog --runtime-dir /tmp/blog run`";
    assert_eq!(start("handover", &globals, "blog", false), by_directory);
    globals.config = Some("blog.toml".into());
    let by_file = "`handover run --config blog.toml`";
    assert_eq!(start("handover", &globals, "blog", false), by_file);
}

#[tokio::test]
async fn nothing_to_stop_is_stopped() {
    let place = Place::new();
    assert_eq!(place.ask(Ask::Stop).await, exit::OK);
    assert!(place.out.text().contains("nothing is running"));
}

/// Two `systemctl reload`, one after the other, with the same program on disk.
#[tokio::test]
async fn what_is_applied_waits_for_another_reload_and_is_ordered_again() {
    for phase in ["reloading", "serving"] {
        let place = Place::new();
        let mut reload = serving();
        reload.phase = phase.into();
        let mut exits = vec![exit::OK, exit::REFUSED];
        let owner = Owner::start(place.listener(), reload, move |_, answer| {
            answer.end(verdict(exits.pop().unwrap(), "that was it"));
        });
        let ends = async {
            // It looks at what is in the way, and then at when that has passed.
            owner.asked(2).await;
            owner.status.send_modify(|status| *status = serving());
            owner.publish.send(step("reloaded")).unwrap();
        };
        let (code, ()) = tokio::join!(place.ask(Ask::Apply), ends);
        assert_eq!(code, exit::OK, "{phase}: {}", place.err.text());
    }
    // Signals decide about that one.
    let place = Place::new();
    let mut beside = probation();
    beside.phase = "beside".into();
    let owner = Owner::start(place.listener(), beside, |_, answer| {
        answer.end(verdict(exit::REFUSED, "both generations accept"));
    });
    assert_eq!(place.ask(Ask::Apply).await, exit::REFUSED);
    assert_eq!(owner.orders.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn stop_is_done_when_the_last_process_has_gone() {
    let place = Place::new();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let mut status = serving();
    status.owner_pid = child.id();
    status.masters[0].pid = child.id();
    for worker in &mut status.masters[0].workers {
        worker.pid = child.id();
    }
    let path = place.path("control.sock");
    let _owner = Owner::start(place.listener(), status, move |order, answer| {
        assert_eq!(order, Order::Stop);
        std::fs::remove_file(&path).unwrap();
        answer.end(verdict(0, "stopping"));
    });
    let killed = async {
        within(async {
            while !place.out.text().contains("waiting for 1 processes") {
                tokio::task::yield_now().await;
            }
        })
        .await;
        child.kill().unwrap();
        child.wait().unwrap();
    };
    let (code, ()) = tokio::join!(place.ask(Ask::Stop), killed);
    assert_eq!(code, exit::OK, "{}", place.err.text());
    assert!(
        place.out.text().ends_with("stopped\n"),
        "{}",
        place.out.text()
    );
}

#[tokio::test]
async fn a_stop_that_is_refused_waits_for_nobody() {
    let place = Place::new();
    let status = Status {
        owner_pid: std::process::id(),
        ..serving()
    };
    let _owner = Owner::start(place.listener(), status, |_, answer| {
        answer.end(verdict(exit::REFUSED, "not now"));
    });
    assert_eq!(place.ask(Ask::Stop).await, exit::REFUSED);
}

/// After a rollback its end is still written down: that holds up nothing.
#[tokio::test]
async fn a_binary_waits_for_the_end_of_an_upgrade_that_is_decided() {
    let upgrade = Upgrade {
        binary: Some("./new".into()),
        ..Upgrade::default()
    };
    let place = Place::new();
    let decided = Status {
        upgrade: probation().upgrade,
        ..serving()
    };
    let owner = Owner::start(place.listener(), decided, |_, answer| {
        answer.end(verdict(0, "serves"));
    });
    let written_down = async {
        owner.asked(2).await;
        owner.status.send_modify(|status| status.upgrade = None);
    };
    let install = |_: &Path| Ok(());
    let (code, ()) = tokio::join!(
        place.ask_with(Ask::Upgrade(upgrade), &install),
        written_down
    );
    assert_eq!(code, exit::OK, "{}", place.err.text());
}

#[tokio::test]
async fn a_binary_is_put_in_place_before_the_order_and_not_under_another_upgrade() {
    let with_binary = || {
        let upgrade = Upgrade {
            binary: Some("./new".into()),
            ..Upgrade::default()
        };
        Ask::Upgrade(upgrade)
    };
    let place = Place::new();
    let owner = Owner::start(place.listener(), serving(), |_, answer| {
        answer.end(verdict(0, "serves"));
    });
    let orders = owner.orders.clone();
    let installed = Mutex::new(0);
    let install = |file: &Path| {
        assert_eq!(file, Path::new("./new"));
        assert!(orders.lock().unwrap().is_empty());
        *installed.lock().unwrap() += 1;
        Ok(())
    };
    assert_eq!(place.ask_with(with_binary(), &install).await, exit::OK);
    assert_eq!(*installed.lock().unwrap(), 1);

    let full = |_: &Path| Err("no space left".into());
    assert_eq!(place.ask_with(with_binary(), &full).await, exit::FAILED);
    assert!(
        place
            .err
            .text()
            .contains("cannot put ./new in place: no space left")
    );
    assert_eq!(owner.orders.lock().unwrap().len(), 1);

    owner.status.send_modify(|status| *status = probation());
    assert_eq!(place.ask(with_binary()).await, exit::REFUSED);
    assert!(place.err.text().contains("--supersede"));
}

#[tokio::test]
async fn a_request_that_met_the_hand_over_is_asked_again() {
    let place = Place::new();
    let again = "HTTP/1.1 503 Moved\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n";
    let done = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
                {\"event\":\"of a newer version\"}\n\
                {\"event\":\"result\",\"exit\":0,\"message\":\"final\",\"more\":1}\n";
    speaking(place.listener(), vec![again, again, done]);
    assert_eq!(
        place.ask(Ask::Commit).await,
        exit::OK,
        "{}",
        place.err.text()
    );
    assert_eq!(place.out.text(), "final\n");
}
