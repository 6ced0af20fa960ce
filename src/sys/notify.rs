//! Speaks to the service manager: `sd_notify(3)`, the descriptor store, and the barrier.
//!
//! What is deliberately absent: `RELOADING=1` (a service that sends it and fails hangs the manager's
//! job) and anything that closes the connection (there is none: each message finds the socket anew,
//! also after systemd has executed itself again).

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use rustix::pipe::PipeFlags;
use tokio::io::Interest;

/// How long one message may wait for a manager that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// `statfs` type of a kernel's pidfds that have inode numbers of their own (6.9 and later).
const PID_FS_MAGIC: u64 = 0x5049_4446;

/// The way to the service manager. Cheap to clone. Every message blocks at most a second.
#[derive(Debug, Clone)]
pub struct Notifier {
    socket: Arc<OwnedFd>,
    address: SocketAddrUnix,
}

/// Why the service manager could not be told something.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// `NOTIFY_SOCKET` is something else.
    #[error(
        "cannot use NOTIFY_SOCKET={address:?}: expected an absolute path, or @ and an abstract name"
    )]
    Address {
        /// What it is.
        address: String,
    },
    /// No socket or pipe for it.
    #[error("cannot prepare to notify the service manager: {0}")]
    Prepare(#[source] io::Error),
    /// The message was not taken.
    #[error("cannot send {message:?} to the service manager: {source}")]
    Send {
        /// Its text.
        message: String,
        /// What failed.
        source: io::Error,
    },
    /// systemd would store the descriptor under the name "stored".
    #[error(
        "cannot store a descriptor as {name:?}: expected 1 to 255 printable ASCII characters \
         without a colon"
    )]
    Name {
        /// The refused name.
        name: String,
    },
    /// The service manager did not answer in time.
    #[error("the service manager did not process our messages within {deadline:?}")]
    Barrier {
        /// How long was waited.
        deadline: Duration,
    },
}

impl NotifyError {
    /// Whether nobody listens there, or not to us: another try would end in the same way.
    #[must_use]
    pub fn is_for_good(&self) -> bool {
        let nobody = [
            io::ErrorKind::NotFound,
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::PermissionDenied,
        ];
        matches!(self, Self::Send { source, .. } if nobody.contains(&source.kind()))
    }
}

impl Notifier {
    /// Whether it is the system's service manager that listens there, not a user's or another one.
    #[must_use]
    pub fn is_the_systems(&self) -> bool {
        self.address.path_bytes() == Some(SYSTEM.as_bytes())
    }

    /// A way to what `NOTIFY_SOCKET` says. Nothing is sent, so nothing has to listen yet.
    pub fn new(address: &OsStr) -> Result<Self, NotifyError> {
        let bad = || NotifyError::Address {
            address: address.to_string_lossy().into_owned(),
        };
        let bytes = address.as_bytes();
        let unix = match bytes {
            [b'@', name @ ..] if !name.is_empty() => SocketAddrUnix::new_abstract_name(name),
            [b'/', _, ..] => SocketAddrUnix::new(bytes),
            _ => return Err(bad()),
        }
        .map_err(|_| bad())?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| NotifyError::Prepare(e.into()))?;
        set_socket_timeout(&socket, Timeout::Send, Some(SEND_TIMEOUT))
            .map_err(|e| NotifyError::Prepare(e.into()))?;
        Ok(Self {
            socket: Arc::new(socket),
            address: unix,
        })
    }

    /// The service runs; with `main` that is its main process (`READY=1`, `STATUS=`, `MAINPID=`).
    pub fn ready(&self, text: &str, main: Option<u32>) -> Result<(), NotifyError> {
        let main = main.map(main_is).unwrap_or_default();
        self.send(&format!("READY=1\n{}{main}", status_is(text)), &[])
    }

    /// What `systemctl status` shows.
    pub fn status(&self, text: &str) -> Result<(), NotifyError> {
        self.send(&status_is(text), &[])
    }

    /// Names the main process. With its pidfd, and where the kernel numbers pidfds, also its
    /// `MAINPIDFDID`, so that a number used again is not taken for it.
    ///
    /// The manager does not say whether it agreed; [`Notifier::barrier`] says when it has decided.
    pub fn main_pid(&self, pid: u32, pidfd: Option<BorrowedFd<'_>>) -> Result<(), NotifyError> {
        let id = pidfd.and_then(pidfd_id);
        let id = id.map(|id| format!("MAINPIDFDID={id}\n"));
        self.send(&(main_is(pid) + &id.unwrap_or_default()), &[])
    }

    /// The whole service stops (`STOPPING=1`): final for every process of the unit. Never while
    /// another generation lives.
    pub fn stopping(&self) -> Result<(), NotifyError> {
        self.send("STOPPING=1\n", &[])
    }

    /// Feeds the watchdog.
    pub fn watchdog(&self) -> Result<(), NotifyError> {
        self.send("WATCHDOG=1\n", &[])
    }

    /// Start, reload or stop goes on and may take that much longer, from now.
    pub fn extend_timeout(&self, by: Duration) -> Result<(), NotifyError> {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}\n", by.as_micros()), &[])
    }

    /// Puts a copy of a descriptor into the manager's store, under `name`. The same open file twice
    /// is kept once; different ones may share a name.
    pub fn fdstore(&self, name: &str, fd: BorrowedFd<'_>) -> Result<(), NotifyError> {
        check_name(name)?;
        self.send(&format!("FDSTORE=1\nFDNAME={name}\n"), &[fd])
    }

    /// Removes everything of that name from the store.
    pub fn fdstore_remove(&self, name: &str) -> Result<(), NotifyError> {
        check_name(name)?;
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), &[])
    }

    /// Waits until the manager has processed what this process sent before (processed, which is not
    /// accepted). Needs a tokio runtime.
    pub async fn barrier(&self, deadline: Duration) -> Result<(), NotifyError> {
        let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(|e| NotifyError::Prepare(e.into()))?;
        let ours = super::kernel::watch(Arc::new(ours), Interest::READABLE)
            .map_err(NotifyError::Prepare)?;
        // Alone in its datagram, or systemd ignores all of it.
        self.send("BARRIER=1\n", &[theirs.as_fd()])?;
        drop(theirs);
        // The manager closes its end, and nobody writes: readable is end of file.
        match tokio::time::timeout(deadline, ours.readable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(NotifyError::Prepare(e)),
            Err(_) => Err(NotifyError::Barrier { deadline }),
        }
    }

    fn send(&self, text: &str, fds: &[BorrowedFd<'_>]) -> Result<(), NotifyError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg_addr(
                &*self.socket,
                &self.address,
                &[IoSlice::new(text.as_bytes())],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )
        })
        .map(|_| ())
        .map_err(|e| NotifyError::Send {
            message: text.trim_end().replace('\n', " "),
            source: e.into(),
        })
    }
}

/// The number systemd knows a pidfd by; `None` where all pidfds share one inode.
fn pidfd_id(pidfd: BorrowedFd<'_>) -> Option<u64> {
    let kind = rustix::fs::fstatfs(pidfd).ok()?.f_type;
    if u64::try_from(kind).ok()? != PID_FS_MAGIC {
        return None;
    }
    Some(rustix::fs::fstat(pidfd).ok()?.st_ino)
}

/// A second line would be a field of its own.
fn status_is(text: &str) -> String {
    format!("STATUS={}\n", text.replace(['\n', '\r', '\0'], " "))
}

fn main_is(pid: u32) -> String {
    format!("MAINPID={pid}\n")
}

/// systemd's rule for an FDNAME, but that it must not be empty.
fn check_name(name: &str) -> Result<(), NotifyError> {
    let fits = (1..=255).contains(&name.len())
        && name.bytes().all(|b| (b' '..0x7f).contains(&b) && b != b':');
    if fits {
        Ok(())
    } else {
        Err(NotifyError::Name { name: name.into() })
    }
}

/// The system manager's (systemd's manager.c), in every version since 209.
const SYSTEM: &str = "/run/systemd/notify";

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::time::Instant;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

    use super::*;

    /// A service manager that reads.
    struct Manager {
        socket: UnixDatagram,
        notifier: Notifier,
        _dir: tempfile::TempDir,
    }

    impl Manager {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("notify");
            Self {
                socket: UnixDatagram::bind(&path).unwrap(),
                notifier: Notifier::new(path.as_os_str()).unwrap(),
                _dir: dir,
            }
        }

        fn read(&self) -> (String, Vec<OwnedFd>) {
            let mut bytes = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let got = rustix::net::recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
            )
            .unwrap();
            let fds = ancillary
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                    _ => None,
                })
                .flatten()
                .collect();
            (String::from_utf8(bytes[..got.bytes].into()).unwrap(), fds)
        }

        fn text(&self) -> String {
            let (text, fds) = self.read();
            assert!(fds.is_empty());
            text
        }
    }

    #[test]
    fn nobody_who_listens_is_for_good_and_somebody_who_is_slow_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let notifier = Notifier::new(path.as_os_str()).unwrap();
        let ready = || notifier.ready("serves", None);
        assert!(ready().unwrap_err().is_for_good(), "there is no such file");
        let socket = UnixDatagram::bind(&path).unwrap();
        let slow = (0..10_000).find_map(|_| ready().err()).unwrap();
        assert!(!slow.is_for_good(), "{slow}");
        drop(socket);
        assert!(ready().unwrap_err().is_for_good(), "nobody has it open");
    }

    #[test]
    fn each_message_is_one_datagram() {
        let m = Manager::new();
        let n = &m.notifier;
        n.ready("g1 serving", Some(42)).unwrap();
        assert_eq!(m.text(), "READY=1\nSTATUS=g1 serving\nMAINPID=42\n");
        n.ready("g1 serving", None).unwrap();
        assert_eq!(m.text(), "READY=1\nSTATUS=g1 serving\n");
        n.status("two\nlines").unwrap();
        assert_eq!(m.text(), "STATUS=two lines\n");
        n.stopping().unwrap();
        assert_eq!(m.text(), "STOPPING=1\n");
        n.watchdog().unwrap();
        assert_eq!(m.text(), "WATCHDOG=1\n");
        n.extend_timeout(Duration::from_secs(7200)).unwrap();
        assert_eq!(m.text(), "EXTEND_TIMEOUT_USEC=7200000000\n");
        n.fdstore_remove("own.http").unwrap();
        assert_eq!(m.text(), "FDSTOREREMOVE=1\nFDNAME=own.http\n");
    }

    #[test]
    fn the_main_process_has_its_pidfds_number_where_there_are_such_numbers() {
        let m = Manager::new();
        let me = crate::sys::process::Other::open(std::process::id())
            .unwrap()
            .unwrap();
        m.notifier.main_pid(me.pid(), Some(me.pidfd())).unwrap();
        let plain = format!("MAINPID={}\n", me.pid());
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut parts = release.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
        let numbered = (parts.next(), parts.next()) >= (Some(6), Some(9));
        let inode = rustix::fs::fstat(me.pidfd()).unwrap().st_ino;
        let with_id = format!("{plain}MAINPIDFDID={inode}\n");
        assert_eq!(m.text(), if numbered { &with_id } else { &plain }.as_str());
        // Nothing but a pidfd has such a number.
        let file = std::fs::File::open("/dev/null").unwrap();
        m.notifier.main_pid(7, Some(file.as_fd())).unwrap();
        assert_eq!(m.text(), "MAINPID=7\n");
        m.notifier.main_pid(7, None).unwrap();
        assert_eq!(m.text(), "MAINPID=7\n");
    }

    #[test]
    fn a_stored_descriptor_arrives_with_its_name() {
        let m = Manager::new();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        m.notifier.fdstore("own.http", listener.as_fd()).unwrap();
        let (text, fds) = m.read();
        assert_eq!(text, "FDSTORE=1\nFDNAME=own.http\n");
        assert_eq!(fds.len(), 1);
        let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_eq!(inode(fds[0].as_fd()), inode(listener.as_fd()));
    }

    #[test]
    fn names_that_systemd_would_not_keep_are_refused() {
        let m = Manager::new();
        let long = "x".repeat(256);
        for name in ["", "a:b", "a\nb", "käse", "\x7f", &long] {
            let error = m
                .notifier
                .fdstore(name, std::io::stdin().as_fd())
                .unwrap_err();
            assert!(matches!(error, NotifyError::Name { .. }), "{error}");
            m.notifier.fdstore_remove(name).unwrap_err();
        }
        m.notifier.fdstore_remove(&"x".repeat(255)).unwrap();
    }

    #[tokio::test]
    async fn the_barrier_ends_when_the_manager_lets_go() {
        let m = Manager::new();
        m.notifier.main_pid(7, None).unwrap();
        let barrier = m.notifier.barrier(Duration::from_secs(60));
        tokio::pin!(barrier);
        // Sent, and not over before the descriptor is closed.
        tokio::select! {
            biased;
            r = &mut barrier => panic!("{r:?}"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(m.text(), "MAINPID=7\n");
        let (text, fds) = m.read();
        assert_eq!(text, "BARRIER=1\n");
        assert_eq!(fds.len(), 1);
        tokio::select! {
            biased;
            r = &mut barrier => panic!("{r:?}"),
            () = tokio::task::yield_now() => {}
        }
        drop(fds);
        barrier.await.unwrap();
    }

    #[tokio::test]
    async fn the_barrier_ends_with_an_error_at_its_deadline() {
        let m = Manager::new();
        let error = m
            .notifier
            .barrier(Duration::from_millis(10))
            .await
            .unwrap_err();
        assert!(matches!(error, NotifyError::Barrier { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            "the service manager did not process our messages within 10ms"
        );
    }

    #[test]
    fn an_abstract_address_begins_with_an_at_sign() {
        let name = format!("handover-notify-{}", std::process::id());
        let socket =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notifier = Notifier::new(OsStr::new(&format!("@{name}"))).unwrap();
        notifier.clone().watchdog().unwrap();
        let mut bytes = [0; 64];
        let len = socket.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..len], b"WATCHDOG=1\n");
    }

    #[test]
    fn other_addresses_are_refused() {
        let long = format!("/{}", "x".repeat(200));
        for address in ["", "@", "/", "relative", "vsock:2:9999", &long] {
            let error = Notifier::new(OsStr::new(address)).unwrap_err();
            assert!(matches!(error, NotifyError::Address { .. }), "{error}");
        }
    }

    #[test]
    fn a_manager_that_is_gone_or_does_not_read_is_an_error_soon() {
        let dir = tempfile::tempdir().unwrap();
        let gone = Notifier::new(dir.path().join("gone").as_os_str()).unwrap();
        let error = gone.status("x").unwrap_err();
        assert!(matches!(error, NotifyError::Send { .. }), "{error}");

        let m = Manager::new();
        let start = Instant::now();
        let mut sent = 0;
        let error = loop {
            match m.notifier.watchdog() {
                Ok(()) => sent += 1,
                Err(e) => break e,
            }
            assert!(sent < 100_000, "the queue has no end");
        };
        assert!(start.elapsed() < 5 * SEND_TIMEOUT);
        assert!(error.to_string().contains("WATCHDOG=1"), "{error}");
        assert_eq!(m.text(), "WATCHDOG=1\n");
    }
}
