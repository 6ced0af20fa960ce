//! Somebody is there who does not answer.

use super::*;

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn one_that_listens_and_ends() {
    if helper::is_helper() {
        rustix::net::listen(std::io::stdin(), 9).unwrap();
        helper::say("listened");
    }
}

/// `SO_PEERCRED` names a process that listened and ended. Nobody hangs, as far as can be known.
#[tokio::test]
async fn an_answer_that_nobody_can_be_seen_to_give_is_no_silence() {
    let place = Place::new();
    let listener = place.listener();
    let mut other = helper::command("", "cli::client::tests::silent::one_that_listens_and_ends");
    other.stdin(std::os::fd::OwnedFd::from(listener.try_clone().unwrap()));
    assert_eq!(helper::run(&mut other), ["listened"]);
    let _owner = Owner::deaf(listener, serving());
    let status = Ask::Status {
        json: false,
        watch: false,
    };
    assert_eq!(place.ask(status).await, exit::FAILED);
    let said = place.err.text();
    assert!(said.contains("cannot be seen who answers"), "{said}");
    assert!(said.contains("should nobody serve, start it"), "{said}");
    assert!(!said.contains("hangs"), "{said}");
}

#[tokio::test]
async fn an_owner_that_does_not_answer_is_named_with_what_to_do() {
    let place = Place::hasty();
    let _listener = place.listener();
    std::fs::write(place.path("handover.pid"), "4312\n").unwrap();
    for ask in [upgrade(Until::Takeover), Ask::Rollback, Ask::Stop] {
        assert_eq!(place.ask(ask).await, exit::FAILED);
        let said = place.err.text();
        assert!(said.contains("no answer on"), "{said}");
        assert!(said.contains("process 4312"), "{said}");
        assert!(said.contains("systemctl restart handover"), "{said}");
    }
}

#[tokio::test]
async fn a_full_queue_is_an_owner_that_does_not_answer() {
    let place = Place::hasty();
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let path = place.path("control.sock");
    let address = socket2::SockAddr::unix(&path).unwrap();
    socket.bind(&address).unwrap();
    socket.listen(0).unwrap();
    let _first = tokio::net::UnixStream::connect(&path).await.unwrap();
    assert_eq!(place.ask(Ask::Commit).await, exit::FAILED);
    assert!(
        place.err.text().contains("no answer on"),
        "{}",
        place.err.text()
    );
}

/// A process that looks like a parked master.
fn parked(place: &Place) -> Child {
    let child = Command::new("env")
        // Who starts the tests may ignore it (nohup).
        .args(["--default-signal=HUP", "bash", "-c"])
        .args(["exec -a \"$0\" sleep 60", "handover: master process g7"])
        .spawn()
        .unwrap();
    std::fs::write(place.path("handover.pid.oldbin"), child.id().to_string()).unwrap();
    // spawn comes back before the kernel shows the new arguments.
    let cmdline = format!("/proc/{}/cmdline", child.id());
    while !std::fs::read(&cmdline).unwrap().starts_with(b"handover") {
        std::thread::yield_now();
    }
    child
}

#[tokio::test]
async fn rollback_wakes_the_parked_master_when_the_owner_hangs() {
    let place = Place::hasty();
    let listener = place.listener();
    let inherited = listener.try_clone().unwrap();
    let mut child = parked(&place);
    let pid = child.id();
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let reclaim = async {
        let held = crate::sys::process::Other::open(pid).unwrap().unwrap();
        within(held.gone()).await.unwrap();
        let status = Status {
            owner_pid: pid,
            ..serving()
        };
        let owner = Owner::deaf(inherited, status);
        let _ = gone.await;
        drop(owner);
    };
    let rollback = async {
        let code = place.ask(Ask::Rollback).await;
        drop(go);
        code
    };
    let (code, ()) = tokio::join!(rollback, reclaim);
    assert_eq!(code, exit::OK, "{}", place.err.text());
    assert!(
        place
            .out
            .text()
            .contains(&format!("(g7, process {pid}) serves again"))
    );
    assert_eq!(child.wait().unwrap().signal(), Some(1));
}

#[tokio::test]
async fn other_orders_wake_nobody_but_say_that_rollback_would() {
    let place = Place::hasty();
    let _listener = place.listener();
    let mut child = parked(&place);
    assert_eq!(place.ask(Ask::Commit).await, exit::FAILED);
    let said = place.err.text();
    assert!(said.contains("rollback` tells its predecessor"), "{said}");
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_service_that_runs_is_never_said_not_to() {
    let place = Place::new();
    let mut master = Command::new("bash")
        .args([
            "-c",
            "exec 3>/proc/self/comm; printf 'g3 serving' >&3; exec 3>&-; read x",
        ])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let comm = format!("/proc/{}/comm", master.id());
    while !std::fs::read_to_string(&comm).unwrap().starts_with("g3") {
        std::thread::yield_now();
    }
    std::fs::write(place.path("handover.pid"), master.id().to_string()).unwrap();
    for ask in [Ask::Commit, Ask::Stop] {
        assert_eq!(place.ask(ask).await, exit::FAILED);
    }
    let said = place.err.text();
    let runs = format!("handover runs (process {}, says", master.id());
    assert!(
        said.contains(&runs) && !said.contains("nothing is"),
        "{said}"
    );
    // It makes its socket again, and is waited for.
    let mut place = place;
    place.patience.gap = Duration::from_secs(10);
    let makes = async {
        tokio::task::yield_now().await;
        Owner::deaf(place.listener(), serving())
    };
    let (json, watch) = (true, false);
    let (code, _owner) = tokio::join!(place.ask(Ask::Status { json, watch }), makes);
    assert_eq!(code, exit::OK);
    master.kill().unwrap();
    master.wait().unwrap();
}
