//! What must hold before anything runs: of the place that [`Service::run`] is called in, and of the
//! program and its configuration together. `check`, `run` and the keeper ask the same.

use std::fs;

use super::Service;
use crate::cli::args;
use crate::config::{Config, ListenerConfig};

/// Why nothing can be run here.
#[derive(Debug, thiserror::Error)]
pub(super) enum Misplaced {
    #[error(
        "Service::run was called inside a runtime: make `main` a plain `fn main() -> ExitCode` \
         without #[tokio::main]; the service makes its runtimes itself, in processes of its own"
    )]
    InRuntime,
    #[error(
        "{0} threads run when Service::run is called, and a signal to one of them would end the \
         service: call it first in `main`, and start threads where the application is made"
    )]
    Threads(usize),
    #[error("the program's own {0} is one of ours, too: give it another name")]
    Clash(String),
}

/// Why this program cannot serve what its configuration says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unserved {
    #[error("the program has no application: give its Service one, with http()")]
    NoApplication,
    #[error("the program has two applications for listener {0:?}: one of them must go")]
    Twice(String),
    #[error("no listener is configured: there is nothing to serve on")]
    NoListener,
    #[error("the program has no application for listener {0:?}; remove it from the configuration")]
    Unknown(String),
    #[error("listener {0:?} speaks a protocol of its own: `tls = true` is for HTTP alone")]
    Tls(String),
    #[error("listener {0:?} of this program speaks TLS: it needs `tls = true`")]
    Plain(String),
}

/// Whether a service may begin here.
pub(super) fn placed() -> Result<(), Misplaced> {
    if tokio::runtime::Handle::try_current().is_ok() {
        return Err(Misplaced::InRuntime);
    }
    // Without /proc nobody can say.
    match fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(threads @ 2..) => Err(Misplaced::Threads(threads)),
        _ => Ok(()),
    }
}

/// Whether what the program adds to the command line has names of its own.
pub(super) fn distinct(own: args::Own) -> Result<(), Misplaced> {
    own.clash()
        .map_or(Ok(()), |what| Err(Misplaced::Clash(what)))
}

impl Service {
    /// Whether it can serve what is configured.
    pub(super) fn serves(&self, config: &Config) -> Result<(), Unserved> {
        if self.apps.is_empty() && self.every.is_none() && self.raw.is_empty() {
            return Err(Unserved::NoApplication);
        }
        if let Some(name) = &self.twice {
            return Err(Unserved::Twice(name.clone()));
        }
        if config.listeners.is_empty() {
            return Err(Unserved::NoListener);
        }
        let served = |listener: &ListenerConfig| {
            let name = &listener.name;
            listener.redirect.is_some()
                || self.every.is_some()
                || self.apps.contains_key(name)
                || self.raw.contains_key(name)
        };
        let unsealed = |l: &&ListenerConfig| !l.tls && self.tls.contains(&l.name);
        if let Some(listener) = config.listeners.iter().find(unsealed) {
            return Err(Unserved::Plain(listener.name.clone()));
        }
        let secret = |l: &&ListenerConfig| l.tls && self.raw.contains_key(&l.name);
        if let Some(listener) = config.listeners.iter().find(secret) {
            return Err(Unserved::Tls(listener.name.clone()));
        }
        match config.listeners.iter().find(|l| !served(l)) {
            Some(listener) => Err(Unserved::Unknown(listener.name.clone())),
            None => Ok(()),
        }
    }

    /// What works, and is hardly meant.
    pub(super) fn doubts(&self, config: &Config) -> Vec<String> {
        let mut doubts = Vec::new();
        let configured = |name: &String| config.listeners.iter().any(|l| l.name == *name);
        let mut left_out: Vec<_> = self
            .apps
            .keys()
            .chain(self.raw.keys())
            .filter(|name| !configured(name))
            .collect();
        left_out.sort();
        for name in left_out {
            doubts.push(format!(
                "the configuration has listeners and {name:?} is not among them: the program's \
                 application for it is not served"
            ));
        }
        if !self.versioned {
            doubts.push(
                "the program does not say its version, so `status` shows the library's: give its \
                 Service one, with version(env!(\"CARGO_PKG_VERSION\"))"
                    .into(),
            );
        }
        doubts
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;

    use super::*;

    fn service(names: &[&str]) -> Service {
        let service = Service::new("test").version("1");
        let add = |service: Service, name: &&str| service.http(name, "[::]:80", Router::new());
        names.iter().fold(service, add)
    }

    fn configured(names: &[&str]) -> Config {
        service(names).defaults
    }

    #[test]
    fn a_program_and_its_configuration_must_fit() {
        let serves =
            |program: &[&str], config: &[&str]| service(program).serves(&configured(config));
        assert_eq!(serves(&["a", "b"], &["b"]), Ok(()));
        assert_eq!(serves(&[], &["a"]), Err(Unserved::NoApplication));
        assert_eq!(
            serves(&["a", "a"], &["a"]),
            Err(Unserved::Twice("a".into()))
        );
        assert_eq!(serves(&["a"], &[]), Err(Unserved::NoListener));
        let unknown = Err(Unserved::Unknown("b".into()));
        assert_eq!(serves(&["a"], &["a", "b"]), unknown);
        let everywhere = Service::new("test").every_listener("a", "[::]:80", Router::new());
        assert_eq!(everywhere.serves(&configured(&["a", "b"])), Ok(()));
    }

    #[test]
    fn what_vanishes_and_what_has_no_version_is_said() {
        let all = configured(&["a", "b"]);
        assert!(service(&["a", "b"]).doubts(&all).is_empty());
        let doubts = service(&["a", "b"]).doubts(&configured(&["b"]));
        assert!(
            doubts.len() == 1 && doubts[0].contains("\"a\""),
            "{doubts:?}"
        );
        let unversioned = Service::new("test").http("a", "[::]:80", Router::new());
        assert_eq!(unversioned.doubts(&all).len(), 1);
    }
}
