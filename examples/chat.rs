//! A chat whose sessions live through upgrades and rollbacks. What is said is kept in a file, so a
//! session is no more than a place in it, and both generations of an upgrade hear each other.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::{process::ExitCode, time::Duration};

use handover::axum::{Router, response::Response, routing::get};
use handover::ws::{Event, Message, Resumed, Upgrade, WebSocket};
use handover::{BoxError, Context, Service};

fn main() -> ExitCode {
    Service::new("chat")
        .version(env!("CARGO_PKG_VERSION"))
        .http("http", "127.0.0.1:8080", app)
        .run()
}

async fn app(cx: Context) -> Result<Router, BoxError> {
    cx.resume("chat", async |session: Resumed| {
        // A place of a build that counts otherwise: dropped, its client is told to come again.
        if let Ok(place) = session.blob.try_into() {
            talk(u64::from_be_bytes(place), session.socket).await;
        }
    });
    let join = async |upgrade: Upgrade| -> Response { upgrade.accept(|socket| talk(0, socket)) };
    Ok(Router::new().route("/chat", get(join)))
}

/// Everything from this place on, and what is said here, until either side leaves.
async fn talk(mut place: u64, mut socket: WebSocket) {
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            event = socket.next() => match event {
                Event::Message(Message::Text(text)) if say(&text).is_ok() => {}
                Event::Drain => return socket.pass_on("chat", place.to_be_bytes()).await,
                _ => return,
            },
            _ = looks.tick() => for line in said_after(&mut place).unwrap_or_default() {
                if socket.send(line).await.is_err() { return; }
            }
        }
    }
}

/// One small write to the end of a file is whole, whoever else writes.
fn say(text: &str) -> io::Result<()> {
    let mut file = File::options().create(true).append(true).open("chat.log")?;
    file.write_all(format!("{}\n", text.replace('\n', " ")).as_bytes())
}

fn said_after(place: &mut u64) -> io::Result<Vec<String>> {
    let (mut file, mut text) = (File::open("chat.log")?, String::new());
    file.seek(SeekFrom::Start(*place))?;
    *place += file.read_to_string(&mut text)? as u64;
    Ok(text.lines().map(Into::into).collect())
}
