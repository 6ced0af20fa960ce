//! What is shown of a service.

use super::*;

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
