//! State. What the service keeps is in files of its own ([`kept`]). The rest is a worker's, which a
//! generation gives to the one that takes over from it: after an upgrade to the new one,
//! after a rollback back to the other. A worker that accepts offers it on a socket of its own in the
//! runtime directory; one that starts asks the worker with its number there, before it is ready.
//! Masters know nothing of it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_seqpacket::{UnixSeqpacket, UnixSeqpacketListener};

use super::context::Place;
use super::lock;
use crate::context::Context;
use crate::sys::channel::Channel;
use crate::sys::kept;
use crate::sys::runtime;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no state. An application that returns it refuses the upgrade; one that goes on without
/// starts empty.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The worker that serves was asked and did not answer as it should.
    #[error("cannot ask the serving worker for its state: {0}")]
    Asked(#[source] BoxError),
    /// It did not answer.
    #[error(
        "the serving worker did not give its state within {}",
        humantime::format_duration(PATIENCE)
    )]
    Silent,
    /// It is of another version. It can be taken as that.
    #[error("the state {name:?} is of version {found}, and {expected} is expected")]
    Version {
        /// Its name.
        name: String,
        /// What was offered.
        found: u32,
        /// What was asked for.
        expected: u32,
    },
    /// It is something else.
    #[error("cannot read the state {name:?}: {source}")]
    Unreadable {
        /// Its name.
        name: String,
        /// Why.
        source: BoxError,
    },
}

/// What this worker offers.
type Offers = Arc<Mutex<BTreeMap<String, Offer>>>;

#[derive(Clone)]
struct Offer {
    version: u32,
    content: Content,
}

#[derive(Clone)]
enum Content {
    /// Made when it is asked for.
    Value(Arc<dyn Fn() -> serde_json::Result<Vec<u8>> + Send + Sync>),
    Descriptor(Arc<OwnedFd>),
}

/// What the other worker has offered.
type Taken = HashMap<String, (u32, Arc<OwnedFd>)>;

/// One message, with a descriptor for each offer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Word {
    Offer { name: String, version: u32 },
    End,
}

/// For the whole conversation.
const PATIENCE: Duration = Duration::from_secs(5);

impl Context {
    /// Offers state of this worker to the one that takes over from it: `state` is called when that one
    /// starts, while this one still serves. So what must not miss a change belongs into a descriptor
    /// that both have. Say it where the application is made; of two of one name the last one counts.
    ///
    /// The worker of the same number gets it: with the usual one worker the only one, with one a core
    /// each its own. What a worker had that is killed is gone.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// # use handover::{BoxError, Context};
    /// # use handover::axum::Router;
    ///
    /// async fn app(cx: Context) -> Result<Router, BoxError> {
    ///     // `?`: a state that cannot be read refuses the upgrade.
    ///     let count = Arc::new(AtomicU64::new(cx.take("count", 1).await?.unwrap_or(0)));
    ///     let offered = Arc::clone(&count);
    ///     cx.offer("count", 1, move || offered.load(Ordering::Relaxed));
    ///     // ...
    /// #   Ok(Router::new())
    /// }
    /// ```
    pub fn offer<T, F>(&self, name: &str, version: u32, state: F)
    where
        T: Serialize,
        F: Fn() -> T + Send + Sync + 'static,
    {
        let value = Arc::new(move || serde_json::to_vec(&state()));
        self.add(name, version, Content::Value(value));
    }

    /// Offers a descriptor: a memfd, a file, a socket. Both generations have it then.
    pub fn offer_descriptor(&self, name: &str, version: u32, descriptor: OwnedFd) {
        self.add(name, version, Content::Descriptor(Arc::new(descriptor)));
    }

    fn add(&self, name: &str, version: u32, content: Content) {
        let offer = Offer { version, content };
        lock(&self.keep(Offers::default)).insert(name.into(), offer);
    }

    /// What the worker that this one takes over from [offers](Self::offer) by this name; `None` when
    /// there is no such worker, or it offers nothing. It may be asked for again, as another type or
    /// version. Needs to be called where the application is made.
    ///
    /// # Errors
    /// It is of another version, or no such value; or that worker does not answer.
    pub async fn take<T: DeserializeOwned>(
        &self,
        name: &str,
        version: u32,
    ) -> Result<Option<T>, StateError> {
        let Some(descriptor) = self.take_descriptor(name, version).await? else {
            return Ok(None);
        };
        let unreadable = |source: BoxError| StateError::Unreadable {
            name: name.into(),
            source,
        };
        let bytes = contents(&File::from(descriptor)).map_err(|e| unreadable(e.into()))?;
        let value = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.into()))?;
        Ok(Some(value))
    }

    /// A file that the service keeps, empty at first: all workers of all generations have the same one,
    /// and it outlives each of them, also one that is killed, and the masters. It is in memory where
    /// systemd runs the service. It ends when the service stops. A file of another version is another
    /// file, so a program that writes it in another form does not spoil it for a rollback.
    ///
    /// Several processes may have it open, so lock it. Every call opens it anew, and a lock is of one
    /// opening: threads exclude each other, too.
    ///
    /// ```
    /// use std::io::{Read, Seek, Write};
    /// use nix::fcntl::{Flock, FlockArg};
    /// # use handover::Context;
    ///
    /// /// Counts for the service, whichever worker is asked.
    /// fn count(cx: &Context) -> std::io::Result<u64> {
    ///     let file = cx.kept_file("count", 1)?;
    ///     let mut file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    ///     let mut text = String::new();
    ///     file.read_to_string(&mut text)?;
    ///     let count = text.parse().unwrap_or(0) + 1;
    ///     file.rewind()?;
    ///     write!(file, "{count}")?;
    ///     Ok(count)
    /// }
    /// ```
    ///
    /// # Errors
    /// The file cannot be opened. What a [`TestContext`](crate::testing::TestContext) makes has no place
    /// for files.
    pub fn kept_file(&self, name: &str, version: u32) -> io::Result<File> {
        let place: Option<Place> = self.kept();
        let place = place.ok_or(io::ErrorKind::Unsupported)?;
        kept::open(&place.runtime, name, version)
    }

    /// The same for a descriptor.
    ///
    /// # Errors
    /// As there.
    pub async fn take_descriptor(
        &self,
        name: &str,
        version: u32,
    ) -> Result<Option<OwnedFd>, StateError> {
        let taken = self.keep(|| Arc::new(OnceCell::<Taken>::new()));
        let taken = taken.get_or_try_init(|| ask(self.kept())).await?;
        let Some((found, descriptor)) = taken.get(name) else {
            return Ok(None);
        };
        if *found != version {
            return Err(StateError::Version {
                name: name.into(),
                found: *found,
                expected: version,
            });
        }
        let copy = descriptor.try_clone();
        copy.map(Some).map_err(|e| StateError::Asked(e.into()))
    }
}

/// From its beginning, wherever its other owner stands.
fn contents(file: &File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Everything that the worker before offers. Nothing, where there is none.
async fn ask(place: Option<Place>) -> Result<Taken, StateError> {
    let Some(place) = place else {
        return Ok(Taken::new());
    };
    for socket in place.sockets() {
        match UnixSeqpacket::connect(&socket).await {
            Ok(stream) => {
                let channel = Channel::from_socket(stream);
                let heard = timeout(PATIENCE, hear(&channel)).await;
                let heard = heard.map_err(|_| StateError::Silent)?;
                return heard.map_err(StateError::Asked);
            }
            // Of a worker that was killed, or has just left.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = std::fs::remove_file(&socket);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(StateError::Asked(e.into())),
        }
    }
    Ok(Taken::new())
}

async fn hear(channel: &Channel) -> Result<Taken, BoxError> {
    let mut taken = Taken::new();
    while let Some(mut received) = channel.recv().await? {
        match received.decode()? {
            Word::Offer { name, version } => {
                let descriptor = received.fds.pop().ok_or("a descriptor is missing")?;
                taken.insert(name, (version, Arc::new(descriptor)));
            }
            Word::End => return Ok(taken),
        }
    }
    Err("it ended in the middle".into())
}

/// This worker accepts: from now on it gives what it offers, until it drains.
pub(super) fn serve(context: &Context) {
    let (Some(offers), Some(place)) = (context.kept::<Offers>(), context.kept::<Place>()) else {
        return;
    };
    // Once.
    if context.kept::<Arc<Serving>>().is_some() {
        return;
    }
    match Serving::bind(&place, context.generation()) {
        Ok((serving, listener)) => {
            let serving = Arc::new(serving);
            context.keep(|| Arc::clone(&serving));
            let draining = context.draining();
            runtime::spawn(async move {
                tokio::select! {
                    _ = draining => {}
                    () = answer(listener, &offers) => {}
                }
                serving.close();
            });
        }
        Err(e) => tracing::error!(
            "the next generation cannot be given state: {}: {e}",
            place.runtime.display()
        ),
    }
}

/// The socket's file.
#[derive(Debug)]
struct Serving(PathBuf);

impl Serving {
    fn bind(place: &Place, generation: u64) -> io::Result<(Self, UnixSeqpacketListener)> {
        /// Several workers of one process: `handover::testing`.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (slot, pid) = (place.slot, std::process::id());
        let name = format!("{PREFIX}{slot}-g{generation}-{pid}-{number}.sock");
        let path = place.runtime.join(name);
        let listener = UnixSeqpacketListener::bind(&path)?;
        Ok((Self(path), listener))
    }

    fn close(&self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const PREFIX: &str = "state-";

impl Place {
    /// Those of workers of this number, of the newest generation first.
    fn sockets(&self) -> Vec<PathBuf> {
        let prefix = format!("{PREFIX}{}-g", self.slot);
        let generation = |path: &Path| {
            let name = path.file_name()?.to_str()?.strip_prefix(&prefix)?;
            name.split('-').next()?.parse::<u64>().ok()
        };
        let entries = std::fs::read_dir(&self.runtime).into_iter().flatten();
        let mut found: Vec<(u64, PathBuf)> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter_map(|path| Some((generation(&path)?, path)))
            .collect();
        found.sort_by_key(|(generation, _)| std::cmp::Reverse(*generation));
        found.into_iter().map(|(_, path)| path).collect()
    }
}

async fn answer(mut listener: UnixSeqpacketListener, offers: &Offers) {
    loop {
        let told = match listener.accept().await {
            Ok(stream) => {
                let offers = lock(offers).clone();
                timeout(PATIENCE, tell(&Channel::from_socket(stream), offers)).await
            }
            Err(e) => Ok(Err(e.into())),
        };
        match told {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!("cannot give state to the next generation: {e}"),
            Err(_) => tracing::error!("the next generation does not take its state"),
        }
    }
}

async fn tell(channel: &Channel, offers: BTreeMap<String, Offer>) -> Result<(), BoxError> {
    let asks = channel.peer_cred()?.uid();
    if asks != nix::unistd::geteuid().as_raw() {
        return Err(format!("user {asks} asks for it, who is not ours").into());
    }
    for (name, Offer { version, content }) in offers {
        let descriptor = match content {
            Content::Descriptor(descriptor) => descriptor,
            Content::Value(value) => {
                let mut file = File::from(memfd_create(c"handover-state", MemfdFlags::CLOEXEC)?);
                file.write_all(&value().map_err(|e| format!("{name:?}: {e}"))?)?;
                Arc::new(file.into())
            }
        };
        let word = Word::Offer { name, version };
        channel.send(&word, &[descriptor.as_fd()]).await?;
    }
    channel.send(&Word::End, &[]).await?;
    Ok(())
}
