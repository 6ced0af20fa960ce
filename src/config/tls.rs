//! `[tls]`, and the certificates and keys that it names.
//!
//! They are read by whoever loads the configuration, which is the master: its workers get them from
//! it (never from disk), so a worker that is started again serves with what its generation began with.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::certificate::CertificateError;
use super::env_file::open_file;
use super::merge::Step;
use super::secret::SecretBytes;
use super::x509;
use super::{Config, ConfigError};

/// TLS of all listeners that have `tls = true`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Holds `NAME.crt` and `NAME.key`, as many as there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Certificates elsewhere. They come before those of the directory.
    #[serde(rename = "certificate", skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateFiles>,
    /// Older versions are refused.
    pub min_version: TlsVersion,
    /// Clients must show a certificate that one of these authorities has signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// Whether clients that come back resume.
    pub tickets: bool,
    /// What the files held when the configuration was loaded; `None` where no listener speaks TLS.
    #[serde(skip)]
    pub identities: Option<Arc<Identities>>,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// PEM: the server's certificate, then those that signed it, each after the one that it signed.
    pub file: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
}

/// The oldest version that is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V13,
}

/// What the files of `[tls]` hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identities {
    /// Certificates with their keys. The first is for clients that ask for a name nobody has.
    pub list: Vec<Identity>,
    /// DER; empty: no client certificate is asked for.
    pub client_ca: Vec<Vec<u8>>,
    /// What of it could not be used.
    #[serde(skip)]
    pub faults: Vec<Fault>,
}

/// A file of `[tls]` that cannot be used. The others can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong with it.
    pub error: CertificateError,
    /// The same, with the line of the configuration that names it.
    pub told: String,
    missing: Missing,
}

/// What a fault leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Missing {
    /// The certificate of this file.
    Certificate(PathBuf),
    /// All that are in this directory.
    Directory(PathBuf),
    /// The authorities of clients.
    Authorities,
}

/// A certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Where it was read from.
    pub file: PathBuf,
    /// The DNS names and addresses that it is for.
    pub names: Vec<String>,
    /// DER; the first is its own.
    pub chain: Vec<Vec<u8>>,
    /// DER.
    pub key: SecretBytes,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
    /// The file of the key, if everybody on this host can read it.
    pub exposed_key: Option<PathBuf>,
    /// The answer of OCSP that clients are shown who ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<Staple>,
    /// Why the one beside it is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ocsp_fault: Option<String>,
    /// It says that there is one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub must_staple: bool,
}

/// An answer of OCSP that may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staple {
    /// In DER, as it is shown.
    pub answer: Vec<u8>,
    /// Seconds since 1970: then it is none any longer.
    pub until: u64,
}

impl Staple {
    /// Whether it may be shown at `now`.
    #[must_use]
    pub fn is_good(&self, now: SystemTime) -> bool {
        seconds(now) < self.until
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            directory: None,
            certificates: Vec::new(),
            min_version: TlsVersion::default(),
            client_ca: None,
            tickets: true,
            identities: None,
        }
    }
}

/// What is wrong with a file, and which key names it.
pub(super) struct Wrong {
    pub(super) way: Vec<Step>,
    pub(super) error: CertificateError,
    pub(super) missing: Missing,
}

impl Tls {
    /// Reads the files: what can be used, and what is wrong with the others.
    pub(super) fn read(&self) -> (Identities, Vec<Wrong>) {
        let (mut list, mut wrong) = (Vec::new(), Vec::new());
        for (n, files) in self.certificates.iter().enumerate() {
            let way = |key| {
                vec![
                    Step::Key("tls"),
                    Step::Key("certificate"),
                    Step::Entry(n),
                    key,
                ]
            };
            match Identity::read(&files.file, &files.key) {
                Ok(identity) => list.push(identity),
                Err((of_key, error)) => wrong.push(Wrong {
                    way: way(Step::Key(if of_key { "key" } else { "file" })),
                    error,
                    missing: Missing::Certificate(files.file.clone()),
                }),
            }
        }
        let way = |key| vec![Step::Key("tls"), Step::Key(key)];
        if let Some(directory) = &self.directory {
            let mut cannot = |error, missing| {
                wrong.push(Wrong {
                    way: way("directory"),
                    error,
                    missing,
                });
            };
            match in_directory(directory) {
                Ok(files) if files.is_empty() && list.is_empty() => cannot(
                    CertificateError::Empty(directory.clone()),
                    Missing::Directory(directory.clone()),
                ),
                Ok(files) => {
                    for (file, key) in files {
                        match Identity::read(&file, &key) {
                            Ok(identity) => list.push(identity),
                            Err((_, error)) => cannot(error, Missing::Certificate(file)),
                        }
                    }
                }
                Err(error) => cannot(error, Missing::Directory(directory.clone())),
            }
        }
        let client_ca = match &self.client_ca {
            None => Vec::new(),
            Some(path) => {
                let read = read_file(path).and_then(|pem| x509::authorities(path, &pem));
                read.unwrap_or_else(|error| {
                    wrong.push(Wrong {
                        way: way("client_ca"),
                        error,
                        missing: Missing::Authorities,
                    });
                    Vec::new()
                })
            }
        };
        let faults = Vec::new();
        let identities = Identities {
            list,
            client_ca,
            faults,
        };
        (identities, wrong)
    }

    /// Whether no certificate is named at all.
    pub(super) fn names_none(&self) -> bool {
        self.directory.is_none() && self.certificates.is_empty()
    }
}

impl Wrong {
    /// `told`: with the place in the configuration.
    pub(super) fn fault(self, told: String) -> Fault {
        Fault {
            error: self.error,
            told,
            missing: self.missing,
        }
    }
}

impl Config {
    /// Reads again the certificates that this configuration names.
    pub fn read_certificates(&mut self) {
        if self.listeners.iter().any(|listener| listener.tls) {
            let (mut identities, wrong) = self.tls.read();
            let fault = |wrong: Wrong| {
                let told = wrong.error.to_string();
                wrong.fault(told)
            };
            identities.faults = wrong.into_iter().map(fault).collect();
            self.tls.identities = Some(Arc::new(identities));
        }
    }

    /// A service that starts, or takes over, serves with the certificates that can be used: nothing
    /// gets better without them. What cannot be had from the files comes from `before`, the generation
    /// that serves; so does what has expired, or is not good yet, while `before` has a good one. Without
    /// the authorities of clients nobody is served: not one may be answered who has not been checked.
    pub fn make_do_with_certificates(&mut self, before: Option<&Identities>, now: SystemTime) {
        let Some(identities) = &mut self.tls.identities else {
            return;
        };
        let identities = Arc::make_mut(identities);
        let known = before.map_or(&[][..], |before| &before.list);
        let mut closed = false;
        for fault in &identities.faults {
            match &fault.missing {
                Missing::Certificate(file) => {
                    let same = known.iter().filter(|other| other.file == *file);
                    identities.list.extend(same.cloned());
                }
                Missing::Directory(directory) => {
                    let inside = known
                        .iter()
                        .filter(|other| other.file.starts_with(directory));
                    identities.list.extend(inside.cloned());
                }
                Missing::Authorities => {
                    identities.client_ca = before.map_or_else(Vec::new, |b| b.client_ca.clone());
                    closed = identities.client_ca.is_empty();
                }
            }
        }
        // Each in its place: the first one is for clients that name none.
        for one in &mut identities.list {
            let Some(error) = one.bad_date(now) else {
                continue;
            };
            let mut same = known.iter().filter(|other| other.file == one.file);
            if let Some(better) = same.find(|other| other.bad_date(now).is_none()) {
                identities.faults.push(Fault {
                    told: error.to_string(),
                    error,
                    missing: Missing::Certificate(one.file.clone()),
                });
                *one = better.clone();
            }
        }
        if identities.list.is_empty() {
            identities.list = known.to_vec();
        }
        if closed {
            identities.list.clear();
        }
    }
}

impl Identity {
    /// What is wrong with the answer of OCSP beside it.
    fn unstapled(&self, now: SystemTime) -> Option<String> {
        let answer = self.file.with_extension("ocsp");
        let answer = answer.display();
        let why = match (&self.ocsp, &self.ocsp_fault) {
            (Some(staple), _) if staple.is_good(now) => return None,
            (Some(_), _) => "it has expired",
            (None, Some(why)) => why,
            (None, None) if self.must_staple => {
                let file = self.file.display();
                return Some(format!(
                    "the certificate in {file} promises an answer of OCSP (must-staple), so some \
                     clients refuse it: write the authority's answer, in DER, to {answer}, then reload"
                ));
            }
            (None, None) => return None,
        };
        Some(format!(
            "the answer of OCSP in {answer} is not shown: {why}; fetch another, then reload"
        ))
    }

    /// That it has expired, or is not good yet.
    fn bad_date(&self, now: SystemTime) -> Option<CertificateError> {
        let (path, now) = (self.file.clone(), seconds(now));
        if now < self.not_before {
            let from = self.not_before;
            return Some(CertificateError::NotYet { path, from });
        }
        let since = self.not_after;
        (now > since).then_some(CertificateError::Expired { path, since })
    }

    /// How long it is good for from `now` on; `None`: no longer, or not yet.
    #[must_use]
    pub fn left(&self, now: SystemTime) -> Option<Duration> {
        let now = seconds(now);
        (now >= self.not_before)
            .then(|| self.not_after.checked_sub(now))
            .flatten()
            .map(Duration::from_secs)
    }

    /// Whether it should have been renewed by `now`: a sixth of its life is left (15 of 90 days), at most
    /// 30 days, or nothing.
    #[must_use]
    pub fn is_due(&self, now: SystemTime) -> bool {
        let life = self.not_after.saturating_sub(self.not_before);
        let last = Duration::from_secs(life / 6).min(LAST_DAYS);
        self.left(now).is_none_or(|left| left < last)
    }
}

impl Identities {
    /// Whether every file that is named can be used.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn are_whole(&self) -> Result<(), ConfigError> {
        let first = self.faults.first();
        first.map_or(Ok(()), |fault| {
            Err(ConfigError::Certificate(fault.told.clone()))
        })
    }

    /// A warning for each key that everybody on this host can read, and for each answer of OCSP that is not
    /// shown, or is promised and missing, at `now`.
    pub fn doubts(&self, now: SystemTime) -> impl Iterator<Item = String> {
        let files = self.list.iter().filter_map(|one| one.exposed_key.as_ref());
        let exposed = files.map(|file| {
            let file = file.display();
            format!("everybody on this host can read the key in {file}: `chmod o-rwx {file}`")
        });
        exposed.chain(self.list.iter().filter_map(move |one| one.unstapled(now)))
    }

    /// Whether all are good at `now` but those that are `serving` already. A service that starts with
    /// one that is not serves it all the same and says so: clients may look less closely than an
    /// operator should, and nothing gets better without it.
    ///
    /// # Errors
    /// The first that has expired or begins later.
    pub fn check_dates(
        &self,
        now: SystemTime,
        serving: Option<&Self>,
    ) -> Result<(), CertificateError> {
        let serves = |identity: &Identity| {
            let mut serving = serving.into_iter().flat_map(|all| &all.list);
            serving.any(|other| other.chain == identity.chain)
        };
        let mut new = self.list.iter().filter(|identity| !serves(identity));
        new.find_map(|identity| identity.bad_date(now))
            .map_or(Ok(()), Err)
    }
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The pairs of a directory in the order of their names, also those of which one half is missing; hidden
/// files (an editor's) are left out.
fn in_directory(directory: &Path) -> Result<Vec<(PathBuf, PathBuf)>, CertificateError> {
    let cannot = |e: io::Error| CertificateError::Unreadable {
        path: directory.into(),
        why: why_not(&e),
    };
    let mut pairs = Vec::new();
    for entry in fs::read_dir(directory).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let name = path.file_name().map(OsStr::as_encoded_bytes);
        if name.is_some_and(|name| name.starts_with(b".")) {
            continue;
        }
        let other = match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => path.with_extension("key"),
            Some("key") => path.with_extension("crt"),
            _ => continue,
        };
        if path.extension().is_some_and(|e| e == "crt") {
            pairs.push((path, other));
        } else if !other.exists() {
            pairs.push((other, path));
        }
    }
    pairs.sort();
    Ok(pairs)
}

/// A certificate for ten years is not warned of for two of them.
const LAST_DAYS: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// No certificate or key is as large.
const FILE_MAX: u64 = 256 * 1024;

fn why_not(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file or directory".into(),
        io::ErrorKind::PermissionDenied => {
            "permission denied: the service's user must be able to read it (`chgrp`, and mode 0640)"
                .into()
        }
        io::ErrorKind::Other => error.to_string(),
        kind => kind.to_string(),
    }
}

pub(super) fn read_file(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, CertificateError> {
    let unreadable = |why: String| CertificateError::Unreadable {
        path: path.into(),
        why,
    };
    let failed = |e: io::Error| unreadable(why_not(&e));
    // Whoever may write its directory exchanges it at any moment.
    let file = open_file(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() > FILE_MAX {
        return Err(unreadable("it is too large".into()));
    }
    // At its full size at once: a buffer that grows leaves copies of a key behind.
    let size = usize::try_from(FILE_MAX).unwrap_or(usize::MAX);
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(size));
    file.take(FILE_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}
