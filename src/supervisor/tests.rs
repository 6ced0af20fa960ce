//! What holders are told of instances.

use super::*;
use crate::config::App;

/// Nobody holds it, and nothing runs.
fn supervisor(instances: u16) -> Supervisor {
    Supervisor::new(Hosting {
        name: "blog".into(),
        generation: 1,
        app: App {
            instances,
            ..App::default()
        },
        release: "/srv/blog/1".into(),
        sockets: "/nowhere".into(),
        prefix: "g1".into(),
        at: Vec::new(),
        ready_within_ms: 1000,
        log_level: "info".into(),
    })
}

fn report(supervisor: &Supervisor) -> Instances {
    match supervisor.report() {
        FromSupervisor::Report(instances) => instances,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_end_on_purpose_does_not_hide_why_another_instance_keeps_crashing() {
    let mut all = supervisor(2);
    let ended = |why: &str, restart| Word::Ended(Some((restart, why.to_owned())));
    let crashed = "instance 0 of the application exited with code 7";
    all.take(0, ended(crashed, Restart::Crash)).await;
    all.take(1, ended("it renews itself", Restart::OnPurpose))
        .await;
    assert_eq!(report(&all).ended.as_deref(), Some(crashed));
    // The newest one counts, and its own renewal forgives it.
    let other = "instance 1 of the application exited with code 8";
    all.take(1, ended(other, Restart::Crash)).await;
    assert_eq!(report(&all).ended.as_deref(), Some(other));
    all.take(1, ended("it renews itself", Restart::OnPurpose))
        .await;
    assert_eq!(report(&all).ended.as_deref(), Some(crashed));
}

#[tokio::test]
async fn holders_are_told_which_instances_do_not_answer() {
    let mut all = supervisor(3);
    assert_eq!(report(&all).silent, [0, 1, 2]);
    for number in 0..3 {
        all.take(number, Word::Ready).await;
    }
    assert!(report(&all).silent.is_empty());
    all.take(1, Word::Silent("it hangs".into())).await;
    assert_eq!(report(&all).silent, [1]);
    all.take(1, Word::Answers).await;
    all.take(2, Word::Ended(None)).await;
    assert_eq!(report(&all).silent, [2]);
}
