//! The client against real Unix sockets: our own server with a scripted driver behind it, and
//! servers that hang, die or talk nonsense.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::api::{Event, Last, Outcome, Status, Until, UpgradeOrder};
use crate::cli::args::{Upgrade, Wait};
use crate::cli::status::tests::{ended, probation, serving};
use crate::master::control::{self, Access, Answer, Figures, Limits, Order, Peer, Request};
use crate::sys::helper;

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
    answer: Duration::from_secs(5),
    gap: Duration::from_millis(200),
    learn: Duration::from_millis(300),
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

    /// With an owner that does not answer.
    fn hasty() -> Self {
        let mut place = Self::new();
        place.patience.answer = Duration::from_millis(500);
        place
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
        self.ask_with(ask, &|_| panic!("nothing to install")).await
    }

    async fn ask_with(&self, ask: Ask, put: &Put<'_>) -> u8 {
        let globals = Globals {
            runtime_dir: Some(self.dir.path().to_owned()),
            state_dir: Some(self.dir.path().to_owned()),
            ..Globals::default()
        };
        let env = Env::default();
        let client = Client::new("handover", "handover", &globals, &env, installation(put))
            .patience(self.patience);
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

fn installation<'a>(put: &'a Put<'a>) -> Installation<'a> {
    Installation {
        program: "/usr/lib/handover/bin/handover".into(),
        put,
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
        let access = Arc::new(Access::new(None));
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
                        Request::Figures(Figures::Status(reply)) => {
                            let status: Status = current.borrow().clone();
                            let _ = reply.send(status);
                            count.send_modify(|n| *n += 1);
                        }
                        Request::Figures(Figures::Metrics(reply)) => drop(reply),
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

fn wait(id: Option<&str>) -> Ask {
    Ask::Wait(Wait {
        id: id.map(str::to_owned),
        ..Wait::default()
    })
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
    let mut other = helper::command("", "cli::client::tests::one_that_listens_and_ends");
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
        assert!(place.err.text().contains("asking what came of the order"));
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

/// It was given to the owner before, which tells this one in a moment.
#[tokio::test]
async fn an_upgrade_that_the_owner_does_not_know_yet_is_waited_for() {
    let mut place = Place::new();
    place.patience.learn = Duration::from_secs(60);
    let owner = Owner::start(place.listener(), serving(), |_, answer| drop(answer));
    let learns = async {
        owner.asked(1).await;
        owner.status.send_modify(|status| {
            *status = probation();
            status.upgrade.as_mut().unwrap().id = owner.id();
        });
        owner.publish.send(step("launching")).unwrap();
    };
    let (code, ()) = tokio::join!(place.ask(upgrade(Until::Takeover)), learns);
    assert_eq!(code, exit::OK, "{}", place.err.text());
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
            .send(Event::Ended(Box::new(ended(Outcome::RolledBack))))
            .unwrap();
        let _ = gone.await;
    };
    let wait = async {
        let code = place.ask(wait(Some("3fa9c2d1"))).await;
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

/// A rollback is recorded when the program on disk is right again: until then the owner knows of no
/// upgrade, or of an older one.
#[tokio::test]
async fn wait_waits_for_the_end_of_the_upgrade_that_it_saw() {
    let place = Place::new();
    let owner = Owner::deaf(place.listener(), probation());
    let id = probation().upgrade.unwrap().id;
    let last = |id: &str, outcome| Last {
        id: id.to_owned(),
        ..ended(outcome)
    };
    let story = async {
        owner.asked(1).await;
        place.record(&last(&id, Outcome::UnderWay));
        owner.status.send_modify(|status| {
            *status = serving();
            status.last = Some(last("an older one", Outcome::Committed));
        });
        owner.publish.send(step("hello")).unwrap();
        owner.asked(4).await;
        let end = last(&id, Outcome::RolledBack);
        owner.status.send_modify(|status| status.last = Some(end));
    };
    let (code, ()) = tokio::join!(place.ask(wait(None)), story);
    assert_eq!(code, exit::FAILED, "{}", place.err.text());
    assert!(place.err.text().contains("rolled back"));
}

#[tokio::test]
async fn wait_without_an_id_means_the_last_and_without_any_there_is_nothing_to_wait_for() {
    let place = Place::new();
    let owner = Owner::deaf(place.listener(), serving());
    assert_eq!(place.ask(wait(None)).await, exit::OK);
    owner
        .status
        .send_modify(|status| status.last = Some(ended(Outcome::RolledBack)));
    assert_eq!(place.ask(wait(None)).await, exit::FAILED);
    place.record(&Last {
        id: "aaaabbbb".into(),
        ..ended(Outcome::Committed)
    });
    assert_eq!(place.ask(wait(Some("aaaa"))).await, exit::OK);
    assert_eq!(place.ask(wait(Some("cccc"))).await, exit::FAILED);
}

#[tokio::test]
async fn a_wait_has_a_limit() {
    let place = Place::new();
    let _owner = Owner::deaf(place.listener(), probation());
    for version in [None, Some("9.9.9".to_owned())] {
        let limited = Wait {
            version,
            timeout: Some(Duration::from_millis(50)),
            ..Wait::default()
        };
        assert_eq!(place.ask(Ask::Wait(limited)).await, exit::REFUSED);
    }
    assert!(
        place
            .err
            .text()
            .contains("9.9.9 does not serve for good after")
    );
}

#[tokio::test]
async fn list_shows_who_answers() {
    let place = Place::new();
    let _owner = Owner::deaf(place.listener(), probation());
    assert_eq!(place.ask(Ask::List).await, exit::OK);
    let said = place.out.text();
    let here = place.dir.path().display().to_string();
    let line = said
        .lines()
        .find(|line| line.ends_with(&here))
        .expect("a line");
    assert!(
        line.contains("1.4.2") && line.contains("probation"),
        "{said}"
    );
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
    let test = "cli::client::tests::answers_in_its_own_process";
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
async fn status_prints_the_picture_or_the_document() {
    let place = Place::new();
    let _owner = Owner::deaf(place.listener(), probation());
    let status = |json| Ask::Status { json, watch: false };
    assert_eq!(place.ask(status(true)).await, exit::OK);
    let document = serde_json::to_string(&probation()).unwrap();
    assert_eq!(place.out.text(), format!("{document}\n"));
    assert_eq!(place.ask(status(false)).await, exit::OK);
    let said = place.out.text();
    assert!(said.contains("in probation; it is final in 42 s"), "{said}");
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
    let client = Client::new(
        "handover",
        "handover",
        &globals,
        &env,
        installation(&|_| Ok(())),
    )
    .patience(PATIENCE);
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

/// Its disk may be full, or stand still.
#[tokio::test]
async fn history_has_what_the_service_knows_and_the_file_does_not() {
    let place = Place::new();
    let mut status = serving();
    status.last = Some(ended(Outcome::Committed));
    let _owner = Owner::start(place.listener(), status, |_, _| {});
    for outcome in [None, Some(Outcome::UnderWay)] {
        if let Some(outcome) = outcome {
            place.record(&ended(outcome));
        }
        for (json, says) in [(false, "committed"), (true, "\"outcome\":\"committed\"")] {
            let before = place.out.text().matches(says).count();
            let asked = place.ask(Ask::History { id: None, json });
            assert_eq!(asked.await, exit::OK);
            let said = place.out.text();
            assert_eq!(said.matches(says).count(), before + 1, "{said}");
        }
    }
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
            wait(None),
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
    let groups = Vec::new();
    let peer = Peer {
        pid: 7,
        uid: 0,
        groups,
    };
    assert_eq!(peer.to_string(), "process 7 of uid 0");
}
