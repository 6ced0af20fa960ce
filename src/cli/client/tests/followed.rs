//! An upgrade is followed to its end, whoever tells of it.

use super::*;

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
