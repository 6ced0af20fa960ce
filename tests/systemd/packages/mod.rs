//! The packages: transactions of dpkg and rpm in booted containers, told under the strict client.
//!
//! They are made as a person makes them (cargo-deb, cargo-generate-rpm), of real builds of three
//! versions and of one that fails. `HANDOVER_TEST_PACKAGES=skip` leaves these stories out, `=require`
//! makes one that cannot be told a failure.

mod app;
mod deb;
mod fleet;
mod gone;
mod hosted;
mod logs;
mod made;
mod manager;
mod rpm;
mod truth;
mod unattended;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Completion, Failed, Trial};

use crate::container::Container;
use crate::host::{Host, Listener};
use crate::tree::Missing;
use crate::tree::Suite::{self, Bookworm, Trixie};
use crate::{told, told_or};
use made::Packages;

/// One story.
struct Story {
    name: &'static str,
    tell: fn(&mut Host),
    suite: Suite,
    /// What it needs beside Debian's minimal system is in it.
    tree: fn(Suite) -> Result<&'static Path, Missing>,
    /// What the daemon must learn first.
    waits_for: Option<&'static str>,
}

macro_rules! tree {
    () => {
        Suite::tree
    };
    (tools) => {
        Suite::tree_with_tools
    };
    (apps) => {
        Suite::tree_with_apps
    };
    (apps_and_rpm) => {
        Suite::tree_with_apps_and_rpm
    };
}

macro_rules! stories {
    ($($module:ident::$story:ident $suites:tt $($tree:ident)? $(waits_for $reason:expr)?,)*) => {
        fn stories() -> Vec<Story> {
            let mut stories = Vec::new();
            $(for suite in $suites {
                stories.push(Story {
                    name: concat!(stringify!($module), "::", stringify!($story)),
                    tell: $module::$story,
                    suite,
                    tree: tree!($($tree)?),
                    waits_for: [$(Some($reason),)? None][0],
                });
            })*
            stories
        }
    };
}

stories! {
    deb::an_installation_serves [Bookworm, Trixie],
    deb::an_upgrade_is_one_hot_upgrade [Bookworm, Trixie],
    deb::a_bad_release_is_refused_and_nothing_is_lost [Bookworm, Trixie],
    deb::a_rollback_is_explained_and_the_next_upgrade_is_as_any [Bookworm, Trixie],
    deb::what_the_administrator_decided_is_respected [Bookworm, Trixie],
    deb::cut_off_in_the_middle_it_is_brought_to_its_end [Bookworm, Trixie],
    deb::a_repair_does_not_make_the_bad_file_the_way_back [Bookworm],
    deb::a_disk_that_is_full_or_read_only_changes_nothing [Bookworm],
    deb::without_systemd_it_is_only_installed [Bookworm],
    gone::a_removal_finishes_requests_and_a_purge_leaves_nothing [Bookworm, Trixie],
    unattended::an_upgrade_at_night_stays_hot [Trixie] tools,
    truth::a_refusal_is_told_to_those_who_ask [Bookworm, Trixie],
    truth::a_boot_is_complete_when_the_release_serves_for_good [Trixie],
    truth::as_rpm_tells_it [Trixie] tools,
    rpm::an_upgrade_is_one_hot_upgrade [Trixie] tools,
    rpm::a_bad_release_is_refused_and_a_rollback_is_explained [Trixie] tools,
    rpm::erased_it_leaves_nothing [Trixie] tools,
    logs::a_rotation_loses_no_line [Trixie] tools,
    hosted::an_instance_is_deployed_refused_upgraded_and_taken_back [Trixie] apps,
    hosted::as_an_rpm_too [Bookworm] apps_and_rpm,
    app::a_package_of_an_application_is_upgraded_like_any [Bookworm],
    app::as_an_rpm_too [Trixie] tools,
}

/// Not passed; and where these stories are required, failed.
fn skipped(why: &str) -> Result<Completion, Failed> {
    if std::env::var("HANDOVER_TEST_PACKAGES").is_ok_and(|wish| wish == "require") {
        return Err(Failed::from(why));
    }
    Ok(Completion::ignored_with(why))
}

/// One trial a story and suite.
pub fn trials() -> Vec<Trial> {
    let packages = Arc::new(OnceLock::new());
    let mut trials: Vec<_> = stories()
        .into_iter()
        .map(|story| trial(story, Arc::clone(&packages)))
        .collect();
    trials.push(fleet::trial(packages));
    trials
}

fn trial(story: Story, packages: Arc<OnceLock<Result<Packages, String>>>) -> Trial {
    let name = format!("packages::{}::{}", story.suite.name(), story.name);
    Trial::ignorable_test(name, move || {
        let wish = std::env::var("HANDOVER_TEST_PACKAGES").unwrap_or_default();
        if wish == "skip" {
            return Ok(Completion::ignored_with("HANDOVER_TEST_PACKAGES=skip"));
        }
        if let (Some(what), true) = (story.waits_for, wish != "all") {
            return Ok(Completion::ignored_with(format!("waits until {what}")));
        }
        if let Err(missing) = made::able() {
            return skipped(&missing);
        }
        let tree = match (story.tree)(story.suite) {
            Ok(tree) => tree,
            Err(missing) => return skipped(&missing.0),
        };
        let packages = packages.get_or_init(|| told(Packages::make)).as_ref()?;
        let mut host = Host {
            container: Container::boot_tree(story.suite, tree, packages.layer())?,
            listener: Listener::Own,
        };
        told(|| (story.tell)(&mut host)).map_err(|panic| {
            let evidence = told_or(|| host.container.evidence());
            Failed::from(format!("{panic}\n{evidence}"))
        })?;
        Ok(Completion::Completed)
    })
}
