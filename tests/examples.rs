//! The examples as their authors would run them: each is upgraded and taken back while its clients
//! are there, and none of them notices what it should not.

mod kit;

#[path = "../examples/grpc/greet.rs"]
#[expect(
    clippy::allow_attributes_without_reason,
    reason = "made by a program"
)]
#[rustfmt::skip]
mod greet;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use futures_util::{SinkExt as _, StreamExt as _};
use greet::Name;
use greet::greeter_client::GreeterClient;
use handover::api::Status;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kit::build;
use kit::client::{Load, Target};
use kit::service::{SOON, Service, Setup};
use kit::wait::wait_until;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite;

/// Changes of the program in one test; every second one is taken back.
const CHANGES: usize = 10;

/// An example that runs.
struct Example {
    service: Service,
    builds: [PathBuf; 2],
}

impl Example {
    fn start(name: &'static str, config: &str, args: &[&str]) -> Self {
        let image = build::example(name);
        let builds = [image.clone(), build::twin(&image)];
        let mut setup = Service::setup(name).name(name).image(image).config(config);
        for arg in args {
            setup = setup.arg(*arg);
        }
        Self::begin(setup, builds)
    }

    fn begin(setup: Setup, builds: [PathBuf; 2]) -> Self {
        let service = setup.start();
        service.wait_phase("serving");
        Self { service, builds }
    }

    /// Upgrades to the other build, and back, again and again; `between` runs after each of them.
    /// Returns the other build.
    fn changes(&self, mut between: impl FnMut()) -> &Path {
        let mut runs = 0;
        for n in 0..CHANGES {
            // What drains is limited (`[drain] generations`).
            let few = |status: &Status| status.masters.len() < 5;
            self.service.wait_status("few generations", few);
            self.service.replace(&self.builds[1 - runs]);
            self.service.cli(&["upgrade"]).assert_code(0);
            between();
            if n % 2 == 0 {
                self.service.cli(&["commit"]).assert_code(0);
                runs = 1 - runs;
            } else {
                self.service.cli(&["rollback"]).assert_code(0);
                between();
            }
        }
        &self.builds[1 - runs]
    }

    /// Stops; everything has ended then.
    fn stop(self) -> Service {
        self.service.cli(&["stop"]).assert_code(0);
        assert_eq!(self.service.wait_exit().code(), Some(0));
        self.service
    }

    fn address(&self) -> SocketAddr {
        match self.service.target("http") {
            Target::Tcp(address) => address,
            Target::Unix(path) => panic!("{}", path.display()),
        }
    }
}

/// Clients in the background, until they are asked what they have seen.
struct Clients<T> {
    runtime: tokio::runtime::Runtime,
    stop: Arc<AtomicBool>,
    running: Vec<tokio::task::JoinHandle<T>>,
}

impl<T: Send + 'static> Clients<T> {
    fn start<F>(count: usize, client: impl Fn(usize, Arc<AtomicBool>) -> F) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let running = (0..count)
            .map(|n| runtime.spawn(client(n, Arc::clone(&stop))))
            .collect();
        Self {
            runtime,
            stop,
            running,
        }
    }

    fn stop(self) -> Vec<T> {
        self.stop.store(true, Ordering::Relaxed);
        let each = self.running.into_iter().map(|client| {
            let ended = async { tokio::time::timeout(SOON, client).await };
            self.runtime.block_on(ended).unwrap().unwrap()
        });
        each.collect()
    }
}

async fn ask(address: SocketAddr, request: Request<Body>) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

#[test]
fn hello_fails_no_request() {
    let example = Example::start("hello", "", &[]);
    let http = || {
        let pause = Duration::from_millis(2);
        example.service.load("http").body("hello\n").pause(pause)
    };
    let fresh = Load::start(http().fresh().connections(2));
    let kept = Load::start(http().keep_alive().connections(4));
    kept.wait_answers(100, SOON);
    example.changes(|| kept.wait_answers(50, SOON));
    fresh.stop().assert_clean();
    kept.stop().assert_clean().assert_kept();
    example.stop();
}

#[test]
fn a_counter_counts_every_request_once_whichever_generation_or_worker_answers() {
    let example = Example::start("counter", "", &[]);
    let address = example.address();
    let clients = Clients::start(4, move |_, stop| async move {
        let mut counted = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            counted.push(count(address).await);
        }
        counted
    });
    example.changes(|| {});
    let mut counted: Vec<u64> = clients.stop().into_iter().flatten().collect();
    counted.sort_unstable();
    let all: Vec<u64> = (1..=counted.len() as u64).collect();
    assert!(all.len() > 100 && counted == all, "{} answers", all.len());

    let owner = example.service.wait_phase("serving").generation;
    let worker = example.service.workers(owner)[0].pid;
    example.service.kill(worker);
    let next = Clients::start(1, move |_, _| count(address)).stop();
    assert_eq!(next, [all.len() as u64 + 1]);
    let files = |service: &Service| {
        let mut files = service.runtime_files();
        files.retain(|name| name.starts_with("kept-"));
        files
    };
    assert_eq!(files(&example.service), ["kept-table.1"]);
    let service = example.stop();
    assert!(files(&service).is_empty(), "{:?}", files(&service));
}

async fn count(address: SocketAddr) -> u64 {
    let request = Request::get("/").header("host", "kit.test");
    let answer = ask(address, request.body(Body::empty()).unwrap()).await;
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    text.trim().parse().expect(&text)
}

#[test]
fn the_sessions_of_a_chat_live_on_and_hear_each_message_once_and_in_order() {
    const CLIENTS: usize = 4;
    let example = Example::start("chat", "", &[]);
    let address = example.address();
    let clients = Clients::start(CLIENTS, |number, stop| async move {
        let stream = TcpStream::connect(address).await.unwrap();
        let url = format!("ws://{address}/chat");
        let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        let (mut said, mut heard) = (0, Vec::new());
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        let mut ended = 0;
        while ended < CLIENTS {
            tokio::select! {
                _ = ticks.tick(), if !stop.load(Ordering::Relaxed) => {
                    said += 1;
                    let text = format!("{number} {said}");
                    socket.send(tungstenite::Message::text(text)).await.unwrap();
                }
                message = socket.next() => {
                    let message = message.unwrap().unwrap();
                    let text = message.to_text().unwrap().to_owned();
                    ended += usize::from(text.ends_with("end"));
                    heard.push(text);
                }
                // The last word, once.
                () = std::future::ready(()), if stop.load(Ordering::Relaxed) && said < usize::MAX => {
                    said = usize::MAX;
                    let text = format!("{number} end");
                    socket.send(tungstenite::Message::text(text)).await.unwrap();
                }
            }
        }
        heard
    });
    example.changes(|| {});
    let heard = clients.stop();
    for one in &heard {
        assert_eq!(*one, heard[0], "all hear the same");
    }
    let mut by_client: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in &heard[0] {
        let (client, word) = line.split_once(' ').unwrap();
        by_client.entry(client).or_default().push(word);
    }
    assert_eq!(by_client.len(), CLIENTS);
    for (client, words) in by_client {
        let (last, numbers) = words.split_last().unwrap();
        assert_eq!(*last, "end");
        assert!(numbers.len() > 20, "client {client} said {}", numbers.len());
        for (at, number) in numbers.iter().enumerate() {
            assert_eq!(*number, (at + 1).to_string(), "of client {client}");
        }
    }
    example.stop();
}

#[test]
fn a_client_of_events_misses_none_and_is_never_cut() {
    let example = Example::start("events", "", &[]);
    let address = example.address();
    let clients = Clients::start(4, |_, stop| async move {
        let (mut next, mut streams) = (0_u64, 0);
        while !stop.load(Ordering::Relaxed) {
            streams += 1;
            let mut request = Request::builder().uri("/events").header("host", "kit.test");
            if next > 0 {
                request = request.header("last-event-id", (next - 1).to_string());
            }
            let answer = ask(address, request.body(Body::empty()).unwrap()).await;
            let (mut body, mut text) = (answer.into_body(), String::new());
            while let Some(frame) = body.frame().await {
                let data = frame
                    .expect("an end between two events")
                    .into_data()
                    .unwrap();
                text.push_str(std::str::from_utf8(&data).unwrap());
                while let Some((event, rest)) = text.split_once("\n\n") {
                    assert_eq!(event, format!("id: {next}\ndata: event {next}"));
                    next += 1;
                    text = rest.to_owned();
                }
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            assert!(text.is_empty() || stop.load(Ordering::Relaxed), "{text:?}");
        }
        (next, streams)
    });
    example.changes(|| {});
    // Each has met the end of a stream.
    example
        .service
        .wait_status("one generation", |status| status.masters.len() == 1);
    for (events, streams) in clients.stop() {
        assert!(events > 100 && streams > 1, "{events} in {streams}");
    }
    example.stop();
}

#[test]
fn a_report_is_made_by_one_at_a_time_through_upgrades_and_a_kill() {
    let example = Example::start("cron", "", &[]);
    let log = example.service.dir().join("cron.log");
    let reports = || fs::read_to_string(&log).unwrap_or_default();
    let wait_more = || {
        let before = reports().lines().count();
        wait_until("more reports", || reports().lines().count() >= before + 2);
    };
    wait_more();
    example.changes(wait_more);
    let owner = example.service.wait_phase("serving").generation;
    let worker = example.service.workers(owner)[0].pid;
    example.service.make_sure_of(worker);
    wait_more();
    let service = example.stop();
    let text = fs::read_to_string(service.dir().join("cron.log")).unwrap();
    let mut generations = std::collections::BTreeSet::new();
    for (n, line) in text.lines().enumerate() {
        let (number, generation) = line.rsplit_once(" by ").unwrap();
        assert_eq!(number, format!("report {}", n + 1), "{text}");
        generations.insert(generation.to_owned());
    }
    assert!(generations.len() > CHANGES / 2, "{generations:?}");
}

#[test]
fn every_job_behind_a_202_is_done_and_written() {
    let example = Example::start("jobs", "", &[]);
    let address = example.address();
    let clients = Clients::start(2, |client, stop| async move {
        let mut accepted = 0;
        while !stop.load(Ordering::Relaxed) {
            let request = Request::post("/jobs").header("host", "kit.test");
            let job = Body::from(format!("{client} {accepted}"));
            let answer = ask(address, request.body(job).unwrap()).await;
            assert_eq!(answer.status(), 202);
            accepted += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        accepted
    });
    example.changes(|| {});
    let accepted = clients.stop();
    let service = example.stop();
    let written = fs::read_to_string(service.dir().join("jobs.log")).unwrap();
    let mut written: Vec<&str> = written.lines().collect();
    written.sort_unstable();
    let each = |(client, count): (usize, &usize)| {
        let jobs: Vec<String> = (0..*count).map(|n| format!("{client} {n}")).collect();
        jobs
    };
    let mut expected: Vec<String> = accepted.iter().enumerate().flat_map(each).collect();
    expected.sort_unstable();
    assert!(expected.len() > 100, "{}", expected.len());
    assert_eq!(written, expected);
}

/// The usual client, as it is: nothing is tried again.
#[test]
fn no_call_of_grpc_fails_and_its_connections_go_on() {
    const CONNECTIONS: usize = 4;
    let example = Example::start("grpc", "", &[]);
    let address = example.address();
    let opened = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&opened);
    let unary = Clients::start(CONNECTIONS / 2, move |_, stop| {
        let counted = Arc::clone(&counted);
        async move {
            // Several calls at a time on one connection.
            let client = greeter(address, counted);
            let callers = (0..4).map(|_| greet(client.clone(), Arc::clone(&stop), false));
            futures_util::future::join_all(callers).await
        }
    });
    let counted = Arc::clone(&opened);
    let streams = Clients::start(CONNECTIONS / 2, move |_, stop| {
        let counted = Arc::clone(&counted);
        async move { watch(greeter(address, counted), stop, false).await }
    });
    example.changes(|| {});
    for calls in unary.stop().into_iter().flatten() {
        assert!(calls > 50, "{calls} calls");
    }
    for (greetings, streams) in streams.stop() {
        // A stream for each time that its generation has gone.
        assert!(
            streams > CHANGES && greetings > 50,
            "{greetings} in {streams}"
        );
    }
    assert_eq!(opened.load(Ordering::Relaxed), CONNECTIONS);
    example.stop();
}

/// Where connections do not go on they end with GOAWAY, at each change. What has begun has its whole answer,
/// and a call that meets the GOAWAY has not: made again, it is answered.
#[test]
fn a_client_of_grpc_that_is_sent_away_loses_no_call_that_has_begun() {
    const CONNECTIONS: usize = 4;
    let example = Example::start("grpc", "[drain]\npass_connections = false", &[]);
    let address = example.address();
    let opened = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&opened);
    let clients = Clients::start(CONNECTIONS, move |_, stop| {
        let counted = Arc::clone(&counted);
        async move {
            let client = greeter(address, counted);
            let calls = greet(client.clone(), Arc::clone(&stop), true);
            futures_util::future::join(calls, watch(client, stop, true)).await
        }
    });
    example.changes(|| {});
    for (calls, (greetings, streams)) in clients.stop() {
        assert!(calls > 50 && greetings > 50, "{calls}, {greetings}");
        assert!(streams > CHANGES, "{streams}");
    }
    let opened = opened.load(Ordering::Relaxed);
    assert!(opened > CONNECTIONS * CHANGES, "{opened}");
    example.stop();
}

fn greeter(address: SocketAddr, opened: Arc<AtomicUsize>) -> Greeter {
    let endpoint = tonic::transport::Endpoint::from_static("http://kit.test");
    let connect = tower::service_fn(move |_: http::Uri| {
        opened.fetch_add(1, Ordering::Relaxed);
        async move { TcpStream::connect(address).await.map(TokioIo::new) }
    });
    GreeterClient::new(endpoint.connect_with_connector_lazy(connect))
}

type Greeter = GreeterClient<tonic::transport::Channel>;

async fn greet(client: Greeter, stop: Arc<AtomicBool>, again: bool) -> usize {
    let mut calls = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = Name { name: "Ann".into() };
        let ask = || {
            let (mut client, name) = (client.clone(), name.clone());
            async move { client.greet(name).await }
        };
        let greeting = call(again, ask).await;
        assert_eq!(greeting.text, "hello Ann");
        calls += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    calls
}

async fn watch(client: Greeter, stop: Arc<AtomicBool>, again: bool) -> (usize, usize) {
    let (mut greetings, mut streams) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let name = Name { name: "Bob".into() };
        let ask = || {
            let (mut client, name) = (client.clone(), name.clone());
            async move { client.watch(name).await }
        };
        let mut stream = call(again, ask).await;
        streams += 1;
        while let Some(greeting) = stream.message().await.expect("the next, or the end") {
            assert_eq!(greeting.text, "hello Bob");
            greetings += 1;
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    (greetings, streams)
}

/// `again`: a call that the server has not taken is made once more.
async fn call<T, F>(again: bool, ask: impl Fn() -> F) -> T
where
    F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    let answer = match ask().await {
        Err(status) if again && was_not_taken(&status) => ask().await,
        answer => answer,
    };
    answer.expect("an answer").into_inner()
}

/// It met the GOAWAY, or was never sent: RFC 9113, 6.8 and 8.7 allow to make it again, whatever it does.
fn was_not_taken(status: &tonic::Status) -> bool {
    let first = std::error::Error::source(status);
    std::iter::successors(first, |error| error.source()).any(|error| {
        let unsent = error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_canceled);
        let refused = error
            .downcast_ref::<h2::Error>()
            .is_some_and(|error| match error.reason() {
                Some(h2::Reason::NO_ERROR) => error.is_go_away(),
                reason => reason == Some(h2::Reason::REFUSED_STREAM),
            });
        unsent || refused
    })
}

#[test]
fn a_program_of_its_authors_own_has_his_arguments_commands_and_configuration() {
    // A failing health check is tried again all that time.
    let hi = "[application]\ngreeting = \"hi\"\n[upgrade]\nstart_timeout = \"5s\"";
    let example = Example::start("own", hi, &["--loud"]);
    let (service, load) = (&example.service, example.service.load("http").path("/Ann"));
    let load = Load::start(load.body("HI Ann\n").pause(Duration::from_millis(2)));
    load.wait_answers(20, SOON);
    // The arguments go to every generation.
    let other = example.changes(|| load.wait_answers(20, SOON));
    load.stop().assert_clean().assert_kept();

    // What the health check refuses does not serve.
    service.write_config("[application]\ngreeting = \"\"");
    service.replace(other);
    let refused = service.cli(&["upgrade"]);
    refused.assert_code(1);
    assert!(refused.stderr.contains("not ready"), "{}", refused.stderr);

    // A wrong key is shown where it stands, by whoever reads the file.
    service.write_config("[application]\ngreting = \"hi\"");
    let own = |args: &[&str]| {
        let output = std::process::Command::new(&service.program)
            .args(args)
            .output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said + &text)
    };
    let config = service.config.to_str().unwrap();
    let (code, said) = own(&["check", "--config", config]);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains(".toml:2:1: unknown key `greting`"), "{said}");

    let (code, said) = own(&["greet", "Ann"]);
    assert_eq!((code, &*said), (Some(0), "hello Ann\n"));
    let (code, said) = own(&["run", "--louder"]);
    assert!(code == Some(64) && said.contains("'--louder'"), "{said}");
    let (_, help) = own(&["--help"]);
    assert!(
        help.contains("greet ") && help.contains("upgrade "),
        "{help}"
    );
    example.stop();
}

#[test]
fn every_datagram_comes_back() {
    let image = build::example("udp");
    let builds = [image.clone(), build::twin(&image)];
    let port = kit::port::Port::reserve();
    let listen = format!("udp:{}", port.address());
    let setup = Service::setup("udp")
        .name("udp")
        .image(image)
        .without_config();
    let example = Example::begin(setup.arg("--listen").arg(listen), builds);
    let address = port.address();
    let clients = Clients::start(4, |_, stop| async move {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        let mut said = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            said += 1;
            socket.send(&said.to_le_bytes()).await.unwrap();
            let mut bytes = [0; 9];
            let answer = tokio::time::timeout(SOON, socket.recv(&mut bytes)).await;
            assert_eq!(answer.expect("it is answered").unwrap(), 8);
            assert_eq!(bytes[..8], said.to_le_bytes());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        said
    });
    example.changes(|| {});
    assert!(clients.stop().into_iter().all(|said| said > 50));
    example.stop();
}

#[test]
fn a_stop_with_several_draining_generations_leaves_no_process_behind() {
    let example = Example::start(
        "workbench",
        "workers = 1\n[drain]\nstop_timeout = \"1s\"",
        &[],
    );
    let address = example.address();
    let mut held = Vec::new();
    for n in 0..3 {
        // A client that holds this generation.
        let mut client = std::net::TcpStream::connect(address).unwrap();
        let request = b"GET /slow?ms=600000 HTTP/1.1\r\nHost: kit.test\r\n\r\n";
        std::io::Write::write_all(&mut client, request).unwrap();
        held.push(client);
        let accepted = |status: &Status| {
            let workers = status.masters.iter().flat_map(|master| &master.workers);
            workers.map(|worker| worker.connections).sum::<u64>() > n
        };
        example.service.wait_status("one more connection", accepted);
        example
            .service
            .replace(&example.builds[usize::from(n % 2 == 0)]);
        example.service.cli(&["upgrade"]).assert_code(0);
        example.service.cli(&["commit"]).assert_code(0);
    }
    let all = |status: &Status| status.masters.len() == 4;
    example.service.wait_status("four generations", all);
    let service = example.stop();
    service.wait_processes("nobody is left", <[_]>::is_empty);
}
