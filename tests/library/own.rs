//! A program that stays its author's own: his configuration and his arguments reach the workers.

use axum::Router;
use axum::routing::get;
use handover::clap::{self, Args};
use handover::testing::{Running, started_with};
use handover::{BoxError, Context, Service};
use serde::Deserialize;

use crate::client::{Client, soon};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    greeting: String,
}

#[derive(Debug, Args)]
struct Arguments {
    /// How many
    #[arg(long)]
    times: usize,
}

fn service() -> Service {
    Service::new("test")
        .version("1")
        .config::<Settings>()
        .arguments::<Arguments>()
        .http("http", "127.0.0.1:80", async |cx: Context| {
            let (settings, arguments) = (cx.config::<Settings>(), cx.arguments::<Arguments>());
            let greeting = settings.greeting.repeat(arguments.times);
            Ok::<_, BoxError>(Router::new().route("/", get(async move || greeting)))
        })
}

const FILE: &str = "[application]\ngreeting = \"hi\"";

fn refused(file: &str, arguments: &[&str]) -> String {
    let refused = started_with(service(), file, arguments).unwrap_err();
    refused.to_string()
}

#[tokio::test]
async fn the_workers_of_every_generation_have_them() {
    let started = |file, times| started_with(service(), file, &["--times", times]).unwrap();
    let mut running = Running::start(started(FILE, "1")).await.unwrap();
    let mut client = Client::connect(running.address("http").unwrap()).await;
    assert_eq!(client.get("/").await, "hi");
    running.upgrade(started(FILE, "3")).await.unwrap();
    soon(running.drained()).await;
    assert_eq!(client.get("/").await, "hihihi");
    running.rollback().await.unwrap();
    soon(running.drained()).await;
    assert_eq!(client.get("/").await, "hi");
}

#[tokio::test]
async fn what_is_wrong_with_them_is_said_before_anything_runs() {
    let wrong = "\n[application]\ngreeting = 7";
    let said = refused(wrong, &["--times", "1"]);
    assert!(said.contains("test.toml:3:12: invalid type"), "{said}");
    let said = refused("[application]\ngreting = \"\"", &["--times", "1"]);
    assert!(
        said.contains("test.toml:2:1: unknown key `greting`"),
        "{said}"
    );
    let said = refused("", &["--times", "1"]);
    assert!(
        said.contains("[application]: missing key `greeting`"),
        "{said}"
    );
    let said = refused(FILE, &[]);
    assert!(said.contains("--times"), "{said}");
    let said = refused(FILE, &["--times", "1", "--loud"]);
    assert!(said.contains("--loud"), "{said}");
}

#[tokio::test]
async fn a_program_without_a_configuration_of_its_own_refuses_one() {
    let service = Service::new("test").http("http", "127.0.0.1:80", Router::new());
    let refused = started_with(service, FILE, &[]).unwrap_err().to_string();
    assert!(refused.contains("test.toml:1:1"), "{refused}");
    assert!(refused.contains("no configuration of its own"), "{refused}");
}
