//! What a cold start runs: what the link leads to, unless that was tried often enough. The service may
//! not write the link, so here nobody points it back.

use std::fs;
use std::os::unix::fs::symlink;

use crate::kit::build;
use crate::scene::{Scene, pid};

const SOCKET: &str = "{socket}";

/// Release 1 has proved itself; nobody serves.
fn good(test: &str) -> Scene {
    let scene = Scene::begin(test, SOCKET, "");
    scene.release("2", "");
    scene.deploy("2").assert_code(0);
    scene.service.cli(&["commit"]).assert_code(0);
    scene.deploy("1").assert_code(0);
    scene.service.cli(&["commit"]).assert_code(0);
    scene.service.wait_owner(3, "serving");
    stop(&scene);
    scene
}

fn stop(scene: &Scene) {
    scene.service.cli(&["stop"]).assert_code(0);
    scene.service.wait_exit();
}

fn serve(scene: &Scene) {
    scene.service.start();
    scene.service.wait_owner(1, "serving");
}

/// As a power cut does.
fn kill_all(scene: &Scene) {
    scene.service.cut_power();
    scene.service.wait_exit();
    scene.service.wait_processes("nobody", |all| all.is_empty());
    // It empties the runtime directory, too.
    fs::remove_dir_all(&scene.service.runtime).unwrap();
}

fn status(scene: &Scene) -> String {
    scene.service.cli(&["status"]).stdout
}

#[test]
fn a_release_that_never_proved_itself_is_tried_three_times_and_the_good_one_serves() {
    let scene = good("tries");
    scene.release("bad", "exit");
    // `deploy` was killed between the link and the order; or `ln -sfn` by hand.
    scene.point("bad");
    for n in 1..=3 {
        scene.service.start();
        assert_eq!(scene.service.wait_exit().code(), Some(1));
        scene.wait_log(&format!("started for the {n}. time of 3"));
    }
    serve(&scene);
    assert_eq!(scene.get("/"), "1");
    scene.wait_log("started three times and never proved itself");
    assert_eq!(scene.pointed(), "bad");
    let told = status(&scene);
    assert!(told.contains("which was refused; "), "{told}");
    // It is not forgotten.
    stop(&scene);
    serve(&scene);
    assert_eq!(scene.get("/"), "1");
    scene.service.cli(&["apply"]).assert_code(0);
    assert_eq!(scene.get("/"), "1");
    // Whoever orders it gets it.
    assert_eq!(scene.service.cli(&["upgrade"]).code, 1);
    assert_eq!(scene.get("/"), "1");
    // Mended, it proves itself, and that counts.
    fs::remove_file(scene.releases().join("bad/fault")).unwrap();
    scene.deploy("bad").assert_code(0);
    scene.service.cli(&["commit"]).assert_code(0);
    stop(&scene);
    serve(&scene);
    assert_eq!(scene.get("/"), "bad");
    stop(&scene);
}

#[test]
fn a_release_that_a_power_cut_met_in_its_probation_is_on_trial() {
    let scene = good("power-cut");
    serve(&scene);
    scene.deploy("2").assert_code(0);
    assert_eq!(scene.get("/"), "2");
    kill_all(&scene);
    for n in 1..=3 {
        serve(&scene);
        assert_eq!(scene.get("/"), "2", "start {n}");
        let told = status(&scene);
        assert!(told.contains("on trial ("), "{told}");
        kill_all(&scene);
    }
    serve(&scene);
    assert_eq!(scene.get("/"), "1");
    stop(&scene);
}

#[test]
fn an_upgrade_of_the_program_keeps_the_release_while_the_link_leads_to_a_refused_one() {
    let scene = good("program-only");
    serve(&scene);
    let lost = scene.release("bad", "exit");
    assert_eq!(scene.deploy("bad").code, 1);
    for empty in [false, true] {
        // Nobody could point it back.
        scene.point("bad");
        if empty {
            fs::remove_dir_all(&lost).unwrap();
        }
        let before = pid(&scene);
        let own = build::own();
        let program = if empty { own } else { build::twin(&own) };
        scene.service.replace(&program);
        // As a package does.
        scene.service.cli(&["apply"]).assert_code(0);
        scene.service.cli(&["commit"]).assert_code(0);
        let generation = if empty { 3 } else { 2 };
        scene.service.wait_owner(generation, "serving");
        assert_eq!(pid(&scene), before, "handed over");
        assert_eq!(scene.get("/"), "1");
    }
    stop(&scene);
}

#[test]
fn a_stop_in_a_trial_is_no_failed_try() {
    let scene = good("stops");
    scene.point("2");
    for n in 1..=5 {
        serve(&scene);
        assert_eq!(scene.get("/"), "2", "start {n}");
        stop(&scene);
    }
}

#[test]
fn a_release_that_serves_for_a_probation_is_good() {
    let scene = good("proves");
    scene.point("2");
    scene.probation("1s");
    serve(&scene);
    scene.service.wait_status("no trial", |_| {
        scene.service.log_text().contains("the trial is over")
    });
    scene.release("bad", "exit");
    scene.point("bad");
    kill_all(&scene);
    for _ in 1..=3 {
        scene.service.start();
        assert_eq!(scene.service.wait_exit().code(), Some(1));
    }
    serve(&scene);
    assert_eq!(scene.get("/"), "2");
    stop(&scene);
}

#[test]
fn the_good_release_serves_while_the_link_leads_to_nothing_that_can_be_started() {
    let scene = good("dangling");
    let lost = scene.release("lost", "");
    scene.point("lost");
    // A program of the release's own, which this one has lost.
    scene.command("./python");
    for name in ["1", "2"] {
        symlink(
            "/usr/bin/python3",
            scene.releases().join(name).join("python"),
        )
        .unwrap();
    }
    for _ in 0..2 {
        serve(&scene);
        assert_eq!(scene.get("/"), "1");
        scene.wait_log(", which cannot be started");
        scene.service.cli(&["reload"]).assert_code(0);
        let told = status(&scene);
        assert!(told.contains("cannot be started"), "{told}");
        stop(&scene);
        let _ = fs::remove_dir_all(&lost);
    }
}
