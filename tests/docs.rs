//! What the README shows is what happens: its commands are typed, and what it prints is compared.

mod kit;

use std::fs;
use std::process::{Command, Stdio};

use kit::build;
use kit::port::Port;

/// Lines of the `console` blocks under a heading.
fn console<'t>(text: &'t str, heading: &str) -> Vec<&'t str> {
    let (_, section) = text.split_once(heading).expect("the heading");
    let section = section.split("\n##").next().unwrap_or(section);
    let blocks = section.split("```console\n").skip(1);
    blocks
        .flat_map(|block| block.split("```").next().unwrap_or(block).lines())
        .collect()
}

#[test]
fn the_first_upgrade_goes_as_the_readme_shows_it() {
    let readme = include_str!("../README.md");
    let lines = console(readme, "## Upgrade it while it serves");
    let dir = tempfile::tempdir().expect("a directory");
    let port = Port::reserve();
    let address = port.address().to_string();

    // Another place and another port, builds that are there already, and no command before the
    // service answers: a person is slow enough.
    let mut script = format!(
        "set -eu\nshopt -s expand_aliases\nexec 2>&1\ncd {dir}\nmkdir -p target/release\n\
         trap 'kill $(jobs -p) || :' EXIT\n\
         cargo() {{ cp \"$builds/${{HANDOVER_VERSION:-own}}\" target/release/handover; }}\n",
        dir = dir.path().display()
    );
    let mut expected = Vec::new();
    for line in lines {
        let Some(command) = line.strip_prefix("$ ") else {
            expected.push(line);
            continue;
        };
        let command = command
            .replace("/tmp/try", &format!("{}/try", dir.path().display()))
            .replace("127.0.0.1:8080", &address)
            .replace(" run --", &format!(" run --listen {address} --"));
        if command.starts_with("h upgrade") {
            script.push_str("until h status >/dev/null; do sleep 0.02; done\n");
        }
        script.push_str(&command);
        script.push('\n');
    }
    assert!(expected.len() >= 3, "the README shows what is printed");

    let builds = dir.path().join("builds");
    fs::create_dir(&builds).expect("a directory");
    fs::copy(build::own(), builds.join("own")).expect("this build");
    fs::copy(build::other_version("2.0.0"), builds.join("2.0.0")).expect("the next release");
    let log = dir.path().join("log");
    let output = fs::File::create(&log).expect("a file");
    let status = Command::new("bash")
        .args(["-c", &script])
        .env("builds", &builds)
        .stdin(Stdio::null())
        .stdout(output)
        .status()
        .expect("bash");
    let said = fs::read_to_string(&log).expect("what was printed");
    assert!(status.success(), "{status}\n{script}\n{said}");
    let mut rest = &*said;
    for line in expected {
        let line = line.replace("0.1.0", build::own_version());
        let at = rest.find(&line);
        let at = at.unwrap_or_else(|| panic!("{line:?} was not printed\n{said}"));
        rest = &rest[at + line.len()..];
    }
    // The client of the second line has seen both.
    for served in [build::own_version(), "2.0.0"] {
        assert!(said.contains(served), "{served} did not answer\n{said}");
    }
}

#[test]
fn the_readme_is_short_and_its_links_lead_somewhere() {
    let readme = include_str!("../README.md");
    assert!(readme.lines().count() <= 200);
    let pages = fs::read_dir("docs").expect("the pages");
    let mut pages: Vec<_> = pages.map(|page| page.expect("a page").path()).collect();
    pages.retain(|page| page.extension().is_some_and(|ext| ext == "md"));
    assert!(pages.len() >= 7, "{pages:?}");
    pages.push("README.md".into());
    for page in pages {
        let text = fs::read_to_string(&page).expect("the page");
        let directory = page.parent().expect("a directory");
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.starts_with("http") {
                continue;
            }
            let exists = directory.join(target).exists();
            assert!(exists, "{}: {target}", page.display());
        }
    }
}
