//! The client against real Unix sockets: our own server with a scripted driver behind it, and
//! servers that hang, die or talk nonsense.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::api::{Event, Last, Outcome, Status, Until};
use crate::cli::args::Upgrade;
use crate::cli::status::tests::{ended, probation, serving};
use crate::master::control::{self, Access, Answer, Limits, Order, Peer, Request};

/// A service's directories, and what a client printed.
struct Place {
    dir: tempfile::TempDir,
    out: Buffer,
    err: Buffer,
    patience: Patience,
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const PATIENCE: Patience = Patience {
    answer: Duration::from_millis(300),
    gap: Duration::from_millis(200),
    retry: Duration::from_millis(10),
    look: Duration::from_secs(60),
    reclaim: Duration::from_secs(5),
};

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            out: Buffer::default(),
            err: Buffer::default(),
            patience: PATIENCE,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn listener(&self) -> std::os::unix::net::UnixListener {
        let listener = std::os::unix::net::UnixListener::bind(self.path("control.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }

    /// What the client's exit code is.
    async fn ask(&self, ask: Ask) -> u8 {
        self.ask_with(ask, &|_, _| panic!("nothing to install"))
            .await
    }

    async fn ask_with(&self, ask: Ask, install: &Install<'_>) -> u8 {
        let globals = Globals {
            runtime_dir: Some(self.dir.path().to_owned()),
            state_dir: Some(self.dir.path().to_owned()),
            ..Globals::default()
        };
        let env = Env::default();
        let client =
            Client::new("handover", "handover", &globals, &env, install).patience(self.patience);
        let mut screen = Screen::to(
            "handover",
            Box::new(self.out.clone()),
            Box::new(self.err.clone()),
        );
        within(client.perform(&ask, &mut screen)).await
    }

    fn record(&self, last: &Last) {
        let line = serde_json::to_string(last).unwrap() + "\n";
        std::fs::write(self.path("history.jsonl"), line).unwrap();
    }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what)
        .await
        .expect("within 10 s")
}

/// A master that answers on the socket.
struct Owner {
    status: watch::Sender<Status>,
    orders: Arc<Mutex<Vec<Order>>>,
    publish: tokio::sync::mpsc::UnboundedSender<Event>,
    served: JoinHandle<()>,
    close: watch::Sender<bool>,
    /// How often the status was asked for.
    asked: watch::Receiver<usize>,
}

impl Owner {
    /// Answers with `status`; `carry_out` gets the orders.
    fn start(
        listener: std::os::unix::net::UnixListener,
        status: Status,
        mut carry_out: impl FnMut(Order, Answer) + Send + 'static,
    ) -> Self {
        let (handle, mut desk) = control::desk();
        let (close, closing) = watch::channel(false);
        let access = Arc::new(Access::new("").unwrap());
        let listener = UnixListener::from_std(listener).unwrap();
        let router = control::router(handle);
        let served = control::serve(listener, router, access, Limits::default(), closing);
        let (status, current) = watch::channel(status);
        let (publish, mut published) = tokio::sync::mpsc::unbounded_channel();
        let orders = Arc::new(Mutex::new(Vec::new()));
        let log = orders.clone();
        let (count, asked) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(event) = published.recv() => desk.publish(event),
                    request = desk.next() => match request {
                        Request::Status(reply) => {
                            let status: Status = current.borrow().clone();
                            let _ = reply.send(status);
                            count.send_modify(|n| *n += 1);
                        }
                        Request::Metrics(reply) => drop(reply),
                        Request::Order { order, answer, .. } => {
                            log.lock().unwrap().push(order.clone());
                            carry_out(order, answer);
                        }
                    }
                }
            }
        });
        Self {
            status,
            orders,
            publish,
            served: tokio::spawn(served),
            close,
            asked,
        }
    }

    async fn asked(&self, times: usize) {
        let mut asked = self.asked.clone();
        within(asked.wait_for(|&n| n >= times)).await.unwrap();
    }

    fn deaf(listener: std::os::unix::net::UnixListener, status: Status) -> Self {
        Self::start(listener, status, |order, _| panic!("{order:?}"))
    }

    /// The id the client gave its order.
    fn id(&self) -> String {
        match &self.orders.lock().unwrap()[0] {
            Order::Upgrade(order) | Order::Apply(order) => order.id.clone().unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

fn step(message: &str) -> Event {
    Event::Step {
        id: None,
        generation: 8,
        phase: "launching".into(),
        message: message.into(),
    }
}

fn upgrade(until: Until) -> Ask {
    let mut upgrade = Upgrade::default();
    upgrade.order.until = until;
    Ask::Upgrade(upgrade)
}

fn id_of(order: &Order) -> String {
    match order {
        Order::Upgrade(order) | Order::Apply(order) => order.id.clone().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_order_is_told_as_it_goes_and_ends_with_its_exit_code() {
    for exit in [0, 1, 75, 76, 78] {
        let place = Place::new();
        let owner = Owner::start(place.listener(), serving(), move |_, answer| {
            answer.step(step("g8 1.0 launching: g9 gets ready"));
            answer.step(step("pre-flight passed"));
            answer.step(step("workers are\n\x1b[2Jready"));
            answer.end(verdict(exit, "that was it"));
        });
        assert_eq!(place.ask(upgrade(Until::Takeover)).await, exit);
        let steps = "g8 1.0 launching: g9 gets ready\n\
                     g8 launching: pre-flight passed\ng8 launching: workers are  [2Jready\n";
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
    let access = Arc::new(Access::new("").unwrap().but_not(|_| true));
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
        Ask::Wait { id: None },
        Ask::Wait {
            id: Some("3fa9".into()),
        },
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
            said.contains("start it with `systemctl start handover`"),
            "{said}"
        );
        assert_eq!(place.out.text(), "");
        // A socket nobody listens on.
        drop(place.listener());
        assert_eq!(place.ask(ask).await, exit::UNAVAILABLE);
    }
}

#[tokio::test]
async fn nothing_to_stop_is_stopped() {
    let place = Place::new();
    assert_eq!(place.ask(Ask::Stop).await, exit::OK);
    assert!(place.out.text().contains("nothing is running"));
}

#[tokio::test]
async fn an_upgrade_whose_story_breaks_off_is_asked_for_by_id() {
    for (until, outcome, expected) in [
        (Until::Takeover, None, exit::OK),
        (Until::Commit, Some(Outcome::Committed), exit::OK),
        (Until::Commit, Some(Outcome::RolledBack), exit::FAILED),
        (Until::Takeover, Some(Outcome::Failed), exit::FAILED),
    ] {
        let place = Place::new();
        let (send, mut order) = tokio::sync::mpsc::unbounded_channel();
        let owner = Owner::start(place.listener(), serving(), move |order, answer| {
            answer.step(step("so far"));
            send.send((order, answer)).unwrap();
        });
        let client = place.ask(upgrade(until));
        let story = async {
            let (order, answer) = order.recv().await.unwrap();
            owner.status.send_modify(|status| {
                *status = probation();
                status.upgrade.as_mut().unwrap().id = id_of(&order);
            });
            drop(answer);
            if let Some(outcome) = outcome {
                // It ends only after the client has asked about it.
                let id = id_of(&order);
                owner.status.send_modify(|status| {
                    *status = serving();
                    status.last = Some(Last {
                        id,
                        ..ended(outcome)
                    });
                });
                owner.publish.send(step("over")).unwrap();
            }
        };
        let (code, ()) = tokio::join!(client, story);
        assert_eq!(code, expected, "{}", place.err.text());
        assert!(place.out.text().contains("so far"));
        assert!(place.err.text().contains("asking what came of it"));
    }
}

#[tokio::test]
async fn an_upgrade_nobody_knows_of_afterwards_is_a_failure_that_says_so() {
    let place = Place::new();
    let _owner = Owner::start(place.listener(), serving(), |_, answer| drop(answer));
    assert_eq!(place.ask(upgrade(Until::Takeover)).await, exit::FAILED);
    let said = place.err.text();
    assert!(said.contains("nobody knows an upgrade"), "{said}");
    assert_eq!(place.ask(Ask::Reload).await, exit::FAILED);
    assert_eq!(place.ask(Ask::Commit).await, exit::FAILED);
    let said = place.err.text();
    assert!(said.contains("`handover --runtime-dir"), "{said}");
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_known_by_when_the_upgrade_ended() {
    let place = Place::new();
    let (status, now) = (serving(), jiff::Timestamp::now());
    let owner = Owner::start(place.listener(), status, |_, answer| drop(answer));
    owner.status.send_modify(|status| {
        status.last = Some(Last {
            finished_at: (now + Duration::from_secs(60)).to_string(),
            ..ended(Outcome::Committed)
        });
    });
    assert_eq!(
        place.ask(Ask::Commit).await,
        exit::OK,
        "{}",
        place.err.text()
    );
}

#[tokio::test]
async fn when_the_owner_died_and_nobody_followed_the_history_knows() {
    let place = Place::new();
    let path = place.path("control.sock");
    let history = place.path("history.jsonl");
    let _owner = Owner::start(place.listener(), serving(), move |order, answer| {
        let id = id_of(&order);
        let last = Last {
            id,
            ..ended(Outcome::RolledBack)
        };
        std::fs::write(&history, serde_json::to_string(&last).unwrap()).unwrap();
        std::fs::remove_file(&path).unwrap();
        drop(answer);
    });
    assert_eq!(place.ask(upgrade(Until::Commit)).await, exit::FAILED);
    assert!(
        place.err.text().contains("workers keep crashing"),
        "{}",
        place.err.text()
    );
}

#[tokio::test]
async fn wait_goes_along_when_the_socket_is_handed_over() {
    let place = Place::new();
    let listener = place.listener();
    let inherited = listener.try_clone().unwrap();
    let first = Owner::deaf(listener, probation());
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let story = async {
        // Once it asks for the status the client follows the events; after each it asks again.
        first.asked(1).await;
        let id = probation().upgrade.map(|upgrade| upgrade.id);
        let mut hello = step("hello");
        if let Event::Step { id: of, .. } = &mut hello {
            of.clone_from(&id);
        }
        first
            .publish
            .send(step("not of this upgrade, but of none"))
            .unwrap();
        first.asked(2).await;
        first.publish.send(hello).unwrap();
        first.asked(3).await;
        assert!(place.out.text().contains("hello"));
        first.close.send(true).unwrap();
        within(first.served).await.unwrap();
        let second = Owner::deaf(inherited, probation());
        second.asked(1).await;
        second.status.send_modify(|status| {
            *status = serving();
            status.last = Some(ended(Outcome::RolledBack));
        });
        second
            .publish
            .send(Event::Ended(ended(Outcome::RolledBack)))
            .unwrap();
        let _ = gone.await;
    };
    let wait = async {
        let id = Some("3fa9c2d1".into());
        let code = place.ask(Ask::Wait { id }).await;
        drop(go);
        code
    };
    let (code, ()) = tokio::join!(wait, story);
    assert_eq!(code, exit::FAILED);
    assert!(
        place
            .err
            .text()
            .contains("rolled back: workers keep crashing")
    );
}

#[tokio::test]
async fn wait_without_an_id_means_the_last_and_without_any_there_is_nothing_to_wait_for() {
    let place = Place::new();
    let owner = Owner::deaf(place.listener(), serving());
    assert_eq!(place.ask(Ask::Wait { id: None }).await, exit::OK);
    owner
        .status
        .send_modify(|status| status.last = Some(ended(Outcome::RolledBack)));
    assert_eq!(place.ask(Ask::Wait { id: None }).await, exit::FAILED);
    let older = Some("aaaa".to_owned());
    place.record(&Last {
        id: "aaaabbbb".into(),
        ..ended(Outcome::Committed)
    });
    assert_eq!(place.ask(Ask::Wait { id: older }).await, exit::OK);
    let never = Some("cccc".to_owned());
    assert_eq!(place.ask(Ask::Wait { id: never }).await, exit::FAILED);
}

#[tokio::test]
async fn an_owner_that_does_not_answer_is_named_with_what_to_do() {
    let place = Place::new();
    let _listener = place.listener();
    std::fs::write(place.path("handover.pid"), "4312\n").unwrap();
    for ask in [upgrade(Until::Takeover), Ask::Rollback, Ask::Stop] {
        assert_eq!(place.ask(ask).await, exit::FAILED);
        let said = place.err.text();
        assert!(said.contains("no answer on"), "{said}");
        assert!(said.contains("pid 4312"), "{said}");
        assert!(said.contains("systemctl restart handover"), "{said}");
    }
}

#[tokio::test]
async fn a_full_queue_is_an_owner_that_does_not_answer() {
    let place = Place::new();
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
    let place = Place::new();
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
            .contains(&format!("(pid {pid}) serves again"))
    );
    assert_eq!(child.wait().unwrap().signal(), Some(1));
}

#[tokio::test]
async fn other_orders_wake_nobody_but_say_that_rollback_would() {
    let place = Place::new();
    let _listener = place.listener();
    let mut child = parked(&place);
    assert_eq!(place.ask(Ask::Commit).await, exit::FAILED);
    let said = place.err.text();
    assert!(said.contains("rollback` wakes its predecessor"), "{said}");
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
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

#[tokio::test]
async fn reopen_signals_the_owner() {
    let place = Place::new();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let status = Status {
        owner_pid: child.id(),
        ..serving()
    };
    let _owner = Owner::deaf(place.listener(), status);
    assert_eq!(place.ask(Ask::Reopen).await, exit::OK);
    assert_eq!(child.wait().unwrap().signal(), Some(10));
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
    let install = |program: &Path, file: &Path| {
        assert_eq!(program, Path::new("/usr/lib/handover/bin/handover"));
        assert_eq!(file, Path::new("./new"));
        assert!(orders.lock().unwrap().is_empty());
        *installed.lock().unwrap() += 1;
        Ok(())
    };
    assert_eq!(place.ask_with(with_binary(), &install).await, exit::OK);
    assert_eq!(*installed.lock().unwrap(), 1);

    let full = |_: &Path, _: &Path| Err("no space left".into());
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
async fn status_prints_the_picture_or_the_document() {
    let place = Place::new();
    let _owner = Owner::deaf(place.listener(), probation());
    let status = |json| Ask::Status { json, watch: false };
    assert_eq!(place.ask(status(true)).await, exit::OK);
    let document = serde_json::to_string(&probation()).unwrap();
    assert_eq!(place.out.text(), format!("{document}\n"));
    assert_eq!(place.ask(status(false)).await, exit::OK);
    let said = place.out.text();
    assert!(said.contains("in probation, commits in 42 s"), "{said}");
    assert!(said.contains("rollback` goes back to 1.4.1"), "{said}");
}

#[tokio::test]
async fn a_watch_prints_with_each_event_until_nobody_reads() {
    /// Takes three documents.
    struct Reader(usize);
    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            assert!(bytes.starts_with(b"{\"schema\":1"));
            self.0 += 1;
            if self.0 > 3 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let place = Place::new();
    let owner = Owner::deaf(place.listener(), serving());
    let globals = Globals {
        runtime_dir: Some(place.dir.path().to_owned()),
        ..Globals::default()
    };
    let env = Env::default();
    let client =
        Client::new("handover", "handover", &globals, &env, &|_, _| Ok(())).patience(PATIENCE);
    let mut screen = Screen::to("handover", Box::new(Reader(0)), Box::new(io::sink()));
    let (json, watch) = (true, true);
    let ask = Ask::Status { json, watch };
    let watching = client.perform(&ask, &mut screen);
    let events = async {
        loop {
            owner.status.send_modify(|status| status.generation += 1);
            owner.publish.send(step("something")).unwrap();
            tokio::task::yield_now().await;
        }
    };
    let code = tokio::select! {
        code = within(watching) => code,
        () = events => unreachable!(),
    };
    assert_eq!(code, exit::OK);
}

#[tokio::test]
async fn history_needs_nobody_running() {
    let place = Place::new();
    let history = |id: Option<&str>, json| Ask::History {
        id: id.map(str::to_owned),
        json,
    };
    assert_eq!(place.ask(history(None, false)).await, exit::OK);
    assert!(place.out.text().contains("no upgrade is recorded"));
    place.record(&ended(Outcome::RolledBack));
    assert_eq!(place.ask(history(None, false)).await, exit::OK);
    assert!(place.out.text().contains("rolled back"));
    assert_eq!(place.ask(history(Some("3fa9"), true)).await, exit::OK);
    assert!(place.out.text().contains("{\"id\":\"3fa9c2d1"));
    assert_eq!(place.ask(history(Some("3fa9"), false)).await, exit::OK);
    assert!(
        place
            .out
            .text()
            .contains("reason       workers keep crashing")
    );
    let said = place.err.text();
    assert!(said.contains("journal"), "{said}");
    assert_eq!(place.ask(history(Some("ffff"), false)).await, exit::FAILED);
}

/// Answers every connection with these bytes, one after the other, the last one for ever.
fn speaking(listener: std::os::unix::net::UnixListener, answers: Vec<&'static str>) {
    let listener = UnixListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        let mut number = 0;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let answer = answers[number.min(answers.len() - 1)];
            let _ = stream.write_all(answer.as_bytes()).await;
            number += 1;
        }
    });
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
            Ask::Wait { id: None },
            Ask::Commit,
            upgrade(Until::Takeover),
        ] {
            let code = place.ask(ask.clone()).await;
            assert_eq!(code, exit::FAILED, "{answer:?} {ask:?}");
        }
    }
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

#[test]
fn hints_name_the_service_that_was_meant() {
    let globals = Globals {
        name: Some("blue".into()),
        ..Globals::default()
    };
    assert_eq!(command("handover", &globals), "handover --name blue");
    assert_eq!(command("hello", &Globals::default()), "hello");
}

#[test]
fn a_peer_reads_well_in_a_log() {
    let (pid, uid, gid) = (7, 0, 0);
    assert_eq!(Peer { pid, uid, gid }.to_string(), "pid 7 of uid 0");
}
