//! `examples/`: what people use, with the packages that people install. `.ci/run` installs them into
//! its cache; without them these tests cannot be told, so they are ignored unless asked for
//! (`cargo test --test host -- --ignored`).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

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

/// Deployed, refused, and taken back, under load. `spoil` breaks this file of a release.
#[track_caller]
fn is_deployed(example: &str, link: Option<(&str, &str)>, spoil: &str, words: &str) {
    let scene = Scene::prepare(example, "{socket}", "");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(example);
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
    for name in ["first", "second", "broken"] {
        release(name);
    }
    let broken = scene.releases().join("broken").join(spoil);
    fs::write(&broken, "import, require: no such thing (\n").unwrap();
    scene.point("first");
    // The example's own words, but for where the release is.
    let text = fs::read_to_string(here.join("handover.toml")).unwrap();
    let current = format!("directory = {:?}", scene.current());
    assert!(text.contains("directory = \".\""));
    let text = text.replace("directory = \".\"", &current);
    // uvicorn starts a broken release for ever: it is refused when it was not ready in time.
    let upgrade = "[upgrade]\nstart_timeout = \"15s\"\n";
    scene
        .service
        .write_config(&format!("workers = 2\n{upgrade}{text}"));
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
    let refused = scene.deploy("broken");
    assert_eq!(refused.code, 1, "{refused}");
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(said.contains(words), "{said}");
    assert_eq!(scene.pointed(), "first");
    serves("first");
    scene.deploy("second").assert_code(0);
    scene.service.cli(&["commit"]).assert_code(0);
    serves("second");
    load.wait_answers(200, SOON);
    load.stop().assert_clean().assert_kept();
    scene.service.cli(&["stop"]).assert_code(0);
    scene.service.wait_exit();
    scene.service.wait_processes("nobody", |all| all.is_empty());
}

#[test]
#[ignore = "needs Flask and gunicorn"]
fn flask_on_gunicorn() {
    is_deployed("flask", Some(("venv", "python")), "blog.py", "SyntaxError");
}

#[test]
#[ignore = "needs FastAPI and uvicorn"]
fn fastapi_on_uvicorn() {
    is_deployed("fastapi", Some(("venv", "python")), "api.py", "SyntaxError");
}

#[test]
#[ignore = "needs node and Express"]
fn express_on_node() {
    let modules = Some(("node_modules", "node/node_modules"));
    is_deployed("express", modules, "server.js", "SyntaxError");
}

#[test]
#[ignore = "needs puma and Sinatra"]
fn sinatra_on_puma() {
    is_deployed("sinatra", None, "config.ru", "syntax error");
}
