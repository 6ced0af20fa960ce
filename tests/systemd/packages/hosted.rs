//! The packages' `handover@.service`: an application is installed, deployed, refused, and lives through
//! an upgrade of the package and its way back.

use super::manager::{IN_TIME, assert_says, dpkg, dpkg_install, rpm_upgrade, within};
use crate::container::Ran;
use crate::host::{Host, until};
use crate::hosted::{BLOG, CONFIG};
use crate::kit::client::{Load, Spec};
use crate::release::PROGRAM;
use crate::stories::load::PAUSE;

const NAME: &str = "handover@blog";
const UNIT: &str = "handover@blog.service";

/// With dpkg.
pub fn an_instance_is_deployed_refused_upgraded_and_taken_back(host: &mut Host) {
    let install = |host: &Host, version: &str| dpkg_install(host, version);
    tell(host, install, |host| dpkg(host, &["--purge", "handover"]));
}

/// With rpm.
pub fn as_an_rpm_too(host: &mut Host) {
    let install = |host: &Host, version: &str| rpm_upgrade(host, version, &[]);
    tell(host, install, |host| {
        within(host, &["rpm", "--erase", "handover"])
    });
}

/// Its clients notice nothing of all that.
fn tell(host: &Host, install: impl Fn(&Host, &str) -> Ran, remove: impl Fn(&Host) -> Ran) {
    install(host, "1.0.0").ok();
    // The package's own service has the port, and a say in which program is good.
    host.systemctl(["disable", "--now", "handover.service"])
        .ok();
    for (release, source) in [("1", BLOG), ("2", BLOG), ("broken", "def (\n")] {
        host.container
            .write(&format!("/srv/blog/{release}/blog.py"), source);
    }
    host.container.write("/etc/handover/blog.toml", CONFIG);
    host.container
        .sh("ln -s 1 /srv/blog/current; chmod -R a+rX /srv/blog /etc/handover")
        .ok();
    host.systemctl(["enable", "--now", UNIT]).ok();
    serves(host, "1");
    let spec = Spec::new("127.0.0.1:80").keep_alive().connections(8);
    let load = Load::start(spec.pause(10 * PAUSE));
    load.wait_answers(50, IN_TIME);

    instance(host, &["deploy", "/srv/blog/2"]).ok();
    instance(host, &["commit"]).ok();
    serves(host, "2");
    let refused = instance(host, &["deploy", "/srv/blog/broken"]);
    assert_eq!(refused.code, 1, "{refused}");
    assert_says(&refused, "SyntaxError");
    serves(host, "2");
    load.wait_answers(100, IN_TIME);

    let application = gunicorn(host);
    install(host, "2.0.0").ok();
    assert_eq!(version(host), "2.0.0");
    assert_eq!(gunicorn(host), application);
    serves(host, "2");
    load.wait_answers(100, IN_TIME);
    instance(host, &["rollback"]).ok();
    assert_eq!(version(host), "1.0.0");
    until("1.0.0 is on disk again", IN_TIME, || {
        let on_disk = host.container.run([PROGRAM, "-v"]);
        on_disk.stdout.contains("/1.0.0").then_some(())
    });
    assert_eq!(gunicorn(host), application);
    serves(host, "2");
    load.wait_answers(100, IN_TIME);

    install(host, "3.0.0").ok();
    instance(host, &["commit"]).ok();
    assert_eq!(version(host), "3.0.0");
    assert_eq!(gunicorn(host), application);
    load.wait_answers(100, IN_TIME);
    load.stop().assert_clean().assert_kept();
    remove(host).ok();
    let left = ["pgrep", "--full", "[g]unicorn|^handover(@[^:]*)?: "];
    assert_eq!(host.container.run(left).stdout, "");
}

fn instance(host: &Host, args: &[&str]) -> Ran {
    let client = ["/usr/bin/handover", "--name", NAME];
    host.container.run(client.iter().chain(args))
}

fn version(host: &Host) -> String {
    let ran = instance(host, &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(ran.ok()).expect("a status");
    status["version"].as_str().unwrap_or("?").to_owned()
}

/// The first process of release 2's gunicorn, by the socket that generation 2 chose. Release 1's may
/// still be on its way out.
fn gunicorn(host: &Host) -> String {
    let oldest = ["pgrep", "--oldest", "--full", "[g]unicorn.*/app/g2-"];
    host.container.run(oldest).ok().to_owned()
}

#[track_caller]
fn serves(host: &Host, release: &str) {
    // A moment after an order the generation that leaves may still accept a connection.
    let wanted = format!("release {release}");
    until(&wanted, IN_TIME, || {
        let ran = host.container.run(["curl", "-sS", "http://127.0.0.1/"]);
        (ran.ok() == wanted).then_some(())
    });
}
