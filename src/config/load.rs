//! Reads the configuration: the program's own defaults, then the files, then the command line.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::certificate::CertificateError;
use super::error::{ConfigError, Problem};
use super::merge::{Document, Merged, Origin, Step};
use super::place::{Place, Where};
use super::tls::Wrong;
use super::validate::{Invalid, service_name, validate};
use super::{Config, ListenerConfig, Reader, Workers, hosting};

/// Where a configuration comes from, each laid over the one before:
///
/// 1. `defaults`, the program's own;
/// 2. `/etc/<name>/<name>.toml`, or the file that `--config` names (which must exist); of an instance
///    (`<template>@<instance>`, as systemd.unit(5) has them) `/etc/<template>/<instance>.toml`;
/// 3. `*.toml` in the directory `conf.d` beside it (`<instance>.d` of an instance), in the order of
///    their names;
/// 4. the command line.
///
/// Tables merge key by key. A `[[listener]]` of a `conf.d` file changes the one of its name, field
/// by field, else it is one more; the defaults' listeners count only when the files have none.
/// Relative paths in a file are relative to the directory it is in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources {
    /// What `--config` names.
    pub explicit: Option<PathBuf>,
    /// What no file and no flag says; its name finds the files.
    pub defaults: Config,
    /// The command line.
    pub overrides: Overrides,
    /// How the application reads its part.
    pub application: Reader,
    /// Listeners that may have datagrams.
    pub datagrams: Vec<String>,
    /// What there is room for here.
    pub room: Room,
    /// Where systemd puts credentials (`LoadCredential=`): what `$CREDENTIALS_DIRECTORY` is at the
    /// beginning of a path of `[tls]`.
    pub credentials: Option<PathBuf>,
}

/// How many listeners can be had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// The descriptors that a process may open (`RLIMIT_NOFILE`); `None`: not looked at.
    pub files: Option<u64>,
    /// Whether systemd keeps the listeners.
    pub systemd: bool,
}

/// What the command line says over the files; a reload says it again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--name`: the service, which file is read included.
    pub name: Option<String>,
    /// `--listen`, as often as given: replaces all listeners; they get the name of the default one.
    pub listen: Vec<String>,
    /// `--root`.
    pub root: Option<PathBuf>,
    /// `--workers`.
    pub workers: Option<Workers>,
    /// `--app`.
    pub app: Option<PathBuf>,
    /// What follows `--`: the application's program and its arguments.
    pub command: Vec<String>,
}

/// A configuration that can be run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The first of `files`; `None` when there is none and the defaults hold.
    pub path: Option<PathBuf>,
    /// All files that have a say, absolute, in the order in which they count.
    pub files: Vec<PathBuf>,
}

impl Config {
    /// [`Sources::load`] without a command line.
    ///
    /// # Errors
    /// As there.
    pub fn load(
        explicit: Option<&Path>,
        name: &str,
        defaults: Self,
    ) -> Result<Loaded, ConfigError> {
        let sources = Sources {
            explicit: explicit.map(Path::to_owned),
            defaults: Self {
                name: name.to_owned(),
                ..defaults
            },
            overrides: Overrides::default(),
            room: Room::default(),
            application: Reader::default(),
            datagrams: Vec::new(),
            credentials: None,
        };
        sources.load()
    }
}

impl Sources {
    /// Reads and checks everything. A certificate that cannot be used is a fault of
    /// [`Identities`](super::Identities), not an error: the others can.
    ///
    /// # Errors
    /// Whatever an operator or the disk can do wrong; the first that is found.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        self.load_below(Path::new("/etc"), true)
    }

    /// As [`load`](Self::load), and by itself why what `[app] directory` leads to cannot be started:
    /// another release may be what runs.
    ///
    /// # Errors
    /// As there.
    pub fn load_for_any_release(&self) -> Result<(Loaded, Option<ConfigError>), ConfigError> {
        self.load_parts(Path::new("/etc"), true)
    }

    /// The name that the files give to the service, as far as they can be read. They may be wrong in
    /// everything else: a client asks whom it is about.
    #[must_use]
    pub fn name_in_files(&self) -> Option<String> {
        let texts = self.files(Path::new("/etc"), &self.defaults.name).ok()?;
        let name = |text: &str| {
            let table: toml::Table = text.parse().ok()?;
            Some(table.get("name")?.as_str()?.to_owned())
        };
        let last = texts.iter().rev().find_map(|(_, text)| name(text));
        last.filter(|name| service_name(name).is_ok())
    }

    /// Whether loading now would give `running`: `status` says it. Certificates are not read: anybody
    /// may ask, and as often as they like.
    #[must_use]
    pub fn matches(&self, running: &Config) -> bool {
        let loaded = self.load_parts(Path::new("/etc"), false);
        loaded.is_ok_and(|(loaded, _)| loaded.config.is_as(running))
    }

    pub(super) fn load_below(&self, etc: &Path, certificates: bool) -> Result<Loaded, ConfigError> {
        match self.load_parts(etc, certificates)? {
            (loaded, None) => Ok(loaded),
            (_, Some(unusable)) => Err(unusable),
        }
    }

    fn load_parts(
        &self,
        etc: &Path,
        certificates: bool,
    ) -> Result<(Loaded, Option<ConfigError>), ConfigError> {
        let mut built_in = self.defaults.clone();
        if let Some(name) = &self.overrides.name {
            built_in.name.clone_from(name);
        }
        // Before it is made part of a path.
        service_name(&built_in.name).map_err(|problem| ConfigError::Invalid {
            at: self.overrides.name_is_from(),
            key: "name".into(),
            problem,
        })?;

        let texts = self.files(etc, &built_in.name)?;
        let files: Vec<PathBuf> = texts.iter().map(|(path, _)| path.clone()).collect();
        let mut documents = vec![Document {
            origin: Origin::BuiltIn,
            text: to_toml(&built_in, Where::BuiltIn)?,
        }];
        documents.extend(texts.into_iter().map(|(path, text)| Document {
            origin: Origin::File(path),
            text,
        }));
        documents.extend(self.overrides.documents(&built_in)?);

        let merged = Merged::new(&documents)?;
        let mut config: Config = merged.read()?;
        self.application.check(&merged)?;
        if self.overrides.hosts() && self.overrides.root.is_none() && config.site.at.is_none() {
            // Tried instead of the site that the files are about.
            config.site.root = None;
        }
        make_absolute(&mut config, &merged, self.credentials.as_deref())?;
        let told = |invalid: Invalid| ConfigError::Invalid {
            at: merged.place_of(&invalid.way),
            key: invalid.key(),
            problem: invalid.problem,
        };
        validate(&config, &self.datagrams, self.room).map_err(told)?;
        let app = config.app.as_ref();
        let release = |app| hosting::release(app, &config.site).map_err(told);
        let unusable = app.and_then(|app| release(app).err());
        let speaks_tls = config.listeners.iter().position(|listener| listener.tls);
        if let Some(speaks_tls) = speaks_tls.filter(|_| certificates) {
            let place = |way: Vec<Step>, error| {
                let problem = Problem::Tls(error);
                told(Invalid { way, problem })
            };
            if config.tls.names_none() {
                let error = CertificateError::NoCertificate;
                let listener = [Step::Key("listener"), Step::Entry(speaks_tls)];
                let way = listener.into_iter().chain([Step::Key("tls")]);
                return Err(place(way.collect(), error));
            }
            let (mut identities, wrong) = config.tls.read();
            let fault = |wrong: Wrong| {
                let told = place(wrong.way.clone(), wrong.error.clone()).to_string();
                wrong.fault(told)
            };
            identities.faults = wrong.into_iter().map(fault).collect();
            config.tls.identities = Some(Arc::new(identities));
        }
        let loaded = Loaded {
            config,
            path: files.first().cloned(),
            files,
        };
        Ok((loaded, unusable))
    }

    /// The files and their texts, in the order in which they count.
    fn files(&self, etc: &Path, name: &str) -> Result<Vec<(PathBuf, String)>, ConfigError> {
        let (main, beside) = match (&self.explicit, name.split_once('@')) {
            (Some(path), _) => {
                let main = std::path::absolute(path).map_err(|e| cannot_read(path, e))?;
                (main, "conf.d".to_owned())
            }
            (None, None) => (
                etc.join(name).join(format!("{name}.toml")),
                "conf.d".to_owned(),
            ),
            // What is beside it is about other instances.
            (None, Some((template, instance))) => (
                etc.join(template).join(format!("{instance}.toml")),
                format!("{instance}.d"),
            ),
        };
        let fragments = fragments(&main.with_file_name(beside))?;
        let mut texts = Vec::new();
        match read(&main) {
            Err(ConfigError::Read { source, .. })
                if self.explicit.is_none() && is_missing(&source) => {}
            text => texts.push((main, text?)),
        }
        for path in fragments {
            let text = read(&path)?;
            texts.push((path, text));
        }
        Ok(texts)
    }
}

impl Overrides {
    fn name_is_from(&self) -> Where {
        match self.name {
            Some(_) => Where::Flag("--name"),
            None => Where::BuiltIn,
        }
    }

    /// Whether an application is named.
    fn hosts(&self) -> bool {
        self.app.is_some() || !self.command.is_empty()
    }

    /// Each flag as the document that it stands for.
    fn documents(&self, built_in: &Config) -> Result<Vec<Document>, ConfigError> {
        #[derive(Default, Serialize)]
        struct Flag {
            #[serde(skip_serializing_if = "Option::is_none")]
            name: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            workers: Option<Workers>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            listener: Vec<ListenerConfig>,
            #[serde(skip_serializing_if = "Option::is_none")]
            site: Option<FlagSite>,
            #[serde(skip_serializing_if = "Option::is_none")]
            app: Option<FlagApp>,
        }
        #[derive(Serialize)]
        struct FlagSite {
            root: PathBuf,
        }

        #[derive(Serialize)]
        struct FlagApp {
            #[serde(skip_serializing_if = "Option::is_none")]
            directory: Option<PathBuf>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            command: Vec<String>,
        }

        let first = built_in.listeners.first();
        let listener_name = first.map_or("http", |l| &l.name);
        let listeners = self.listen.iter().map(|address| ListenerConfig {
            // An application that is served over TLS is never served without.
            tls: first.is_some_and(|first| first.tls),
            ..ListenerConfig::new(listener_name, Some(address))
        });
        let absolute = |path: &Option<PathBuf>| match path {
            Some(path) => std::path::absolute(path)
                .map(Some)
                .map_err(|e| cannot_read(path, e)),
            None => Ok(None),
        };
        let (root, directory) = (absolute(&self.root)?, absolute(&self.app)?);
        let name = Flag {
            name: self.name.clone(),
            ..Flag::default()
        };
        let listen = Flag {
            listener: listeners.collect(),
            ..Flag::default()
        };
        let root = Flag {
            site: root.map(|root| FlagSite { root }),
            ..Flag::default()
        };
        let workers = Flag {
            workers: self.workers,
            ..Flag::default()
        };
        let command = self.command.clone();
        let app = Flag {
            app: self.hosts().then_some(FlagApp { directory, command }),
            ..Flag::default()
        };
        [
            ("--app", app),
            ("--name", name),
            ("--listen", listen),
            ("--root", root),
            ("--workers", workers),
        ]
        .into_iter()
        .map(|(flag, values)| {
            Ok(Document {
                origin: Origin::Flag(flag),
                text: to_toml(&values, Where::Flag(flag))?,
            })
        })
        .collect()
    }
}

/// The `*.toml` of a directory in the order of their names; hidden ones (an editor's) are left out,
/// and a directory that is not there has none.
fn fragments(conf_d: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let entries = match fs::read_dir(conf_d) {
        Err(e) if is_missing(&e) => return Ok(Vec::new()),
        entries => entries.map_err(|e| cannot_read(conf_d, e))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| cannot_read(conf_d, e))?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|e| e == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    // Looked at before it is opened: opening a pipe would wait for its other end.
    let metadata = fs::metadata(path).map_err(|e| cannot_read(path, e))?;
    if !metadata.is_file() {
        return Err(ConfigError::NotAFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SIZE_MAX + 1).read_to_end(&mut bytes))
        .map_err(|e| cannot_read(path, e))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > SIZE_MAX {
        return Err(ConfigError::TooLarge {
            path: path.to_owned(),
            limit: SIZE_MAX,
        });
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes());
        let place = Place::new(path, &text, valid..valid + 1);
        ConfigError::Syntax {
            at: Where::File(Box::new(place)),
            message: "not UTF-8".into(),
        }
    })
}

/// What a file calls `www` is beside that file, wherever the process was started.
fn make_absolute(
    config: &mut Config,
    merged: &Merged<'_>,
    credentials: Option<&Path>,
) -> Result<(), ConfigError> {
    let beside = |way: &[Step], path: &Path| {
        let directory = merged.origin_of(way).and_then(Origin::directory);
        match directory {
            // Without the dots of a `./`.
            Some(directory) => Ok(directory.join(path).components().collect()),
            None => std::path::absolute(path).map_err(|e| cannot_read(path, e)),
        }
    };
    // In the release, where the site is beside an application.
    if let (Some(root), None) = (&mut config.site.root, &config.site.at) {
        if root.as_os_str().is_empty() {
            // It would be the directory of the file that says so, with whatever else is in there.
            let way = [Step::Key("site"), Step::Key("root")];
            return Err(ConfigError::Invalid {
                at: merged.place_of(&way),
                key: "site.root".into(),
                problem: Problem::NoRoot,
            });
        }
        *root = beside(&[Step::Key("site"), Step::Key("root")], root)?;
    }
    if let Some(app) = &mut config.app {
        let key = |key| [Step::Key("app"), Step::Key(key)];
        if !app.directory.as_os_str().is_empty() {
            app.directory = beside(&key("directory"), &app.directory)?;
        }
        for file in &mut app.env_files {
            *file = beside(&key("env_files"), file)?;
        }
    }
    let tls = |key| [Step::Key("tls"), Step::Key(key)];
    let beside_or_credential = |way: &[Step], path: &Path| match path.strip_prefix(CREDENTIALS) {
        Ok(name) => {
            let directory = credentials.ok_or_else(|| {
                let at = merged.place_of(way);
                let (way, problem) = (way.to_vec(), Problem::NoCredentials);
                let key = Invalid { way, problem }.key();
                ConfigError::Invalid {
                    at,
                    key,
                    problem: Problem::NoCredentials,
                }
            })?;
            // No slash at its end when the name is empty.
            Ok(directory.components().chain(name.components()).collect())
        }
        Err(_) => beside(way, path),
    };
    for key in ["directory", "client_ca"] {
        let path = match key {
            "directory" => &mut config.tls.directory,
            _ => &mut config.tls.client_ca,
        };
        if let Some(path) = path {
            *path = beside_or_credential(&tls(key), path)?;
        }
    }
    for (n, files) in config.tls.certificates.iter_mut().enumerate() {
        for (key, path) in [("file", &mut files.file), ("key", &mut files.key)] {
            let [table, list] = tls("certificate");
            let way = [table, list, Step::Entry(n), Step::Key(key)];
            *path = beside_or_credential(&way, path)?;
        }
    }
    let access = &mut config.log.access;
    if !access.is_empty() && access != "off" {
        let path = beside(
            &[Step::Key("log"), Step::Key("access")],
            Path::new(&*access),
        )?;
        // Lossy at worst for a directory that is not UTF-8, which validate() then refuses.
        *access = path.to_string_lossy().into_owned();
    }
    Ok(())
}

/// Fails for paths that are not UTF-8 and numbers that are not TOML's.
fn to_toml(values: &impl Serialize, at: Where) -> Result<String, ConfigError> {
    toml::to_string(values).map_err(|error| ConfigError::Syntax {
        at,
        message: error.to_string(),
    })
}

fn cannot_read(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::Read {
        path: path.to_owned(),
        source,
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What a path of `[tls]` begins with that is a systemd credential.
pub const CREDENTIALS: &str = "$CREDENTIALS_DIRECTORY";

/// No configuration is as large.
const SIZE_MAX: u64 = 1024 * 1024;
