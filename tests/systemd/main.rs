//! The service under the real systemd: Debian containers (252, 257, the newest), the units as they
//! are shipped, a client that never retries.
//!
//! `cargo test --test systemd` tells every story, each in a container that was booted for it; where
//! this machine cannot boot one they are reported as ignored, with the reason. One argument picks
//! by name: `cargo test --test systemd -- trixie::own::reload`. A story that failed shows the
//! container's journal. With `HANDOVER_TEST_SYSTEMD=require` a story that cannot be told has failed.
#![allow(
    clippy::disallowed_methods,
    reason = "bad releases exit as they like, containers are polled and killed"
)]

mod container;
mod guard;
mod host;
mod hosted;
#[path = "../kit/mod.rs"]
mod kit;
mod packages;
mod release;
mod stories;
mod tree;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use host::{Host, Listener};
use release::Layer;
use stories::Story;
use tree::Suite;

fn main() -> ExitCode {
    release::Bad::play();
    std::panic::set_hook(Box::new(|panic| {
        LAST_PANIC.with_borrow_mut(|last| *last = panic.to_string());
    }));
    let mut args = Arguments::from_args();
    // Stories mostly wait; two cores carry more than two.
    args.test_threads.get_or_insert(4);
    let layer = Arc::new(Layer::make());
    let mut trials = guard::trials();
    let mut of_packages = packages::trials();
    // The fleet's takes the longest, and makes the packages: meanwhile others do without.
    trials.extend(of_packages.pop());
    trials.extend(hosted::trials(&layer));
    trials.extend(of_packages);
    for story in stories::ALL {
        for &listener in story.listeners {
            for suite in Suite::ALL {
                trials.push(trial(story, suite, listener, Arc::clone(&layer)));
            }
        }
    }
    let conclusion = libtest_mimic::run(&args, trials);
    drop(layer);
    conclusion.exit_code()
}

fn trial(
    story: &'static Story,
    suite: Suite,
    listener: Listener,
    layer: Arc<std::io::Result<Layer>>,
) -> Trial {
    let name = if story.listeners.len() > 1 {
        let listener = format!("{listener:?}").to_lowercase();
        format!("{}::{listener}::{}", suite.name(), story.name)
    } else {
        format!("{}::{}", suite.name(), story.name)
    };
    Trial::ignorable_test(name, move || {
        if std::env::var("HANDOVER_TEST_SYSTEMD").is_ok_and(|v| v == "skip") {
            return skipped("HANDOVER_TEST_SYSTEMD=skip", false);
        }
        if let Err(missing) = suite.tree() {
            // Debian's newest may not bootstrap on any one day; the others always do.
            return skipped(&missing.0, suite != Suite::Forky);
        }
        let layer = Result::as_ref(&layer).map_err(|e| Failed::from(format!("the layer: {e}")))?;
        let mut host = Host::boot(suite, listener, layer)?;
        told(|| (story.tell)(&mut host)).map_err(|panic| {
            let evidence = told_or(|| host.container.evidence());
            Failed::from(format!("{panic}\n{evidence}"))
        })?;
        Ok(Completion::Completed)
    })
}

/// Not passed; and where stories are required, failed.
fn skipped(why: &str, needed: bool) -> Result<Completion, Failed> {
    if needed && std::env::var("HANDOVER_TEST_SYSTEMD").is_ok_and(|v| v == "require") {
        return Err(Failed::from(why));
    }
    Ok(Completion::ignored_with(why))
}

/// Runs something that may panic; the error is the panic's message with its place.
fn told<T>(what: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(what)).map_err(|_| LAST_PANIC.take())
}

fn told_or(what: impl FnOnce() -> String) -> String {
    told(what).unwrap_or_else(|panic| panic)
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}
