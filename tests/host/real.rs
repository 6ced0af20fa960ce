//! `examples/`: what people use, with the packages that people install. `.ci/run` installs them into
//! its cache; without them these tests cannot be told, so they are ignored unless asked for
//! (`cargo test --test host -- --ignored`).

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::build;
use crate::kit::example::{EXPRESS, Example, FASTAPI, FLASK, SINATRA};
use crate::kit::port::Port;
use crate::kit::service::SOON;
use crate::scene::Scene;

/// Where `.ci/run` keeps what it installed.
fn installed() -> PathBuf {
    let cache = std::env::var_os("HANDOVER_TEST_CACHE");
    cache
        .map_or_else(|| "/var/cache/handover-ci".into(), PathBuf::from)
        .join("apps")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Deployed, refused for each of its faults, and taken back, under load. `link` is what was installed.
#[track_caller]
fn is_deployed(example: &Example, link: Option<(&str, &str)>) {
    let scene = Scene::prepare(example.name, "{socket}", "");
    let here = example.directory();
    let release = |name: &str| {
        let dir = scene.releases().join(name);
        copy(&here, &dir);
        if let Some((name, target)) = link {
            let target = installed().join(target);
            assert!(
                target.is_dir(),
                "{} is missing: see .ci/run",
                target.display()
            );
            symlink(target, dir.join(name)).unwrap();
        }
        dir
    };
    release("first");
    release("second");
    scene.point("first");
    // The example's own words, but for where the release is.
    let text = example.config(&scene.current());
    let configure = |start_timeout: &str| {
        let upgrade = format!("[upgrade]\nstart_timeout = {start_timeout:?}\n");
        scene
            .service
            .write_config(&format!("workers = 2\n{upgrade}{text}"));
    };
    configure("30s");
    scene.service.start();
    scene.service.wait_owner(1, "serving");
    let serves = |name: &str| {
        let answer = scene.get("/");
        assert!(answer.contains(name), "{answer}");
        if let Ok(style) = fs::read_to_string(here.join("static/blog.css")) {
            assert_eq!(scene.get("/static/blog.css"), style);
        }
    };
    serves("first");
    let spec = scene.service.load("http").keep_alive().connections(16);
    let load = crate::kit::client::Load::start(spec);
    load.wait_answers(200, SOON);
    scene.deploy("second").assert_code(0);
    serves("second");
    load.wait_answers(200, SOON);
    scene.service.cli(&["rollback"]).assert_code(0);
    serves("first");
    load.wait_answers(200, SOON);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = (taken.local_addr().unwrap().port(), taken);
    for fault in example.faults(taken.0) {
        let dir = release(fault.name);
        fs::write(dir.join(example.main), &fault.source).unwrap();
        configure(fault.patience("30s"));
        let refused = scene.deploy(fault.name);
        assert_eq!(refused.code, 1, "{}: {refused}", fault.name);
        let said = format!("{}{}", refused.stdout, refused.stderr);
        assert!(said.contains(fault.says), "{}: {said}", fault.name);
        assert_eq!(scene.pointed(), "first");
        serves("first");
    }
    configure("30s");
    scene.deploy("second").assert_code(0);
    scene.service.cli(&["commit"]).assert_code(0);
    serves("second");
    load.wait_answers(200, SOON);
    load.stop().assert_clean().assert_kept();
    scene.service.cli(&["stop"]).assert_code(0);
    scene.service.wait_exit();
    scene.service.wait_processes("nobody", |all| all.is_empty());
}

/// Another place, another port, and packages that were fetched already.
#[test]
#[ignore = "needs Flask and gunicorn"]
fn the_six_commands_of_the_walkthrough_do_what_they_say() {
    let page = include_str!("../../docs/hosting.md");
    let (_, section) = page
        .split_once("## From nothing to the second deploy")
        .unwrap();
    let block = |number: usize| {
        let block = section.split("```console\n").nth(number).unwrap();
        let block = block.split("```").next().unwrap();
        // What has no prompt is the rest of a command.
        let lines = block
            .lines()
            .map(|line| line.strip_prefix("$ ").unwrap_or(line));
        lines.collect::<Vec<_>>().join("\n")
    };
    let commands = section.split("```console\n").take(3);
    let commands = commands.flat_map(|block| block.split("```").next().unwrap().lines());
    assert_eq!(commands.filter(|line| line.starts_with("$ ")).count(), 6);
    let dir = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let address = port.address();
    let first = block(1).replace(" run ", &format!(" run --listen {address} "));
    let script = format!(
        "set -eu\nexec 2>&1\ntrap 'handover --config blog.toml stop || :' EXIT\n\
         handover() {{ \"$program\" --runtime-dir \"$PWD/run\" --state-dir \"$PWD/state\" \"$@\"; }}\n\
         answers() {{ until [ \"$(curl -sS http://{address})\" = \"$1\" ]; do sleep 0.1; done; }}\n\
         {first}\nanswers first\nsed -i s/first/second/ blog.py\n{second}\nanswers second\n\
         handover --config blog.toml rollback\nanswers first\nhandover --config blog.toml stop\nwait\n",
        second = block(2)
    );
    let blog = "from flask import Flask\n\napp = Flask(__name__)\n\n\n@app.get(\"/\")\ndef index():\n    \
                return \"first\"\n";
    fs::write(dir.path().join("blog.py"), blog).unwrap();
    let typed = Command::new("timeout")
        .args(["300", "bash", "-c", &script])
        .current_dir(dir.path())
        .env("program", build::own())
        .env("PIP_NO_INDEX", "1")
        .env("PIP_FIND_LINKS", installed().join("wheels"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&typed.stdout);
    assert!(typed.status.success(), "{}\n{script}\n{said}", typed.status);
}

#[test]
#[ignore = "needs Flask and gunicorn"]
fn flask_on_gunicorn() {
    is_deployed(&FLASK, Some(("venv", "python")));
}

#[test]
#[ignore = "needs FastAPI and uvicorn"]
fn fastapi_on_uvicorn() {
    is_deployed(&FASTAPI, Some(("venv", "python")));
}

#[test]
#[ignore = "needs node and Express"]
fn express_on_node() {
    is_deployed(&EXPRESS, Some(("node_modules", "node/node_modules")));
}

#[test]
#[ignore = "needs puma and Sinatra"]
fn sinatra_on_puma() {
    is_deployed(&SINATRA, None);
}
