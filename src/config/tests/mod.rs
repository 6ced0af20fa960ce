//! The configuration as an operator meets it: files on a disk, and the exact text of every error.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;

mod application;
mod files;
mod tls;
mod values;
mod wrong;

/// A directory that plays `/etc` of the service `web`.
struct Etc(TempDir);

impl Etc {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("web/conf.d")).unwrap();
        Self(dir)
    }

    fn file(self, path: &str, text: &str) -> Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join("web").join(path)
    }

    fn load(&self, sources: &Sources) -> Result<Loaded, ConfigError> {
        sources.load_below(self.0.path(), true)
    }

    fn config(&self) -> Config {
        self.load(&sources()).unwrap().config
    }

    /// The error's text with `/etc` for the directory.
    fn error(&self, sources: &Sources) -> String {
        let error = self.load(sources).unwrap_err().to_string();
        error.replace(self.0.path().to_str().unwrap(), "/etc")
    }
}

fn sources() -> Sources {
    Sources {
        room: Room::default(),
        defaults: Config {
            name: "web".into(),
            listeners: vec![listener("http", "127.0.0.1:8080")],
            ..Config::default()
        },
        ..Sources::default()
    }
}

fn listener(name: &str, address: &str) -> ListenerConfig {
    ListenerConfig {
        name: name.into(),
        address: Some(address.into()),
        backlog: None,
        mode: None,
        group: None,
        tls: false,
        proxy_protocol: false,
        redirect: None,
    }
}

/// The error that one main file alone gives.
fn error_of(text: &str) -> String {
    Etc::new().file("web.toml", text).error(&sources())
}
