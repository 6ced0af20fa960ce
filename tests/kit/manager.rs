//! A fake service manager: what systemd does to a `Type=notify` service and says to it, as
//! shared/facts/systemd.md found it, in a thread of the test process.
//!
//! Strict: `NotifyAccess=` by the sender's credentials, `BARRIER=1` alone in its datagram,
//! `MAINPID=` only for a living process of the unit, the file-descriptor store with names, the
//! watchdog, and the alien main process that is not seen to die and is killed at once on stop.
//!
//! The test process becomes the subreaper of everything it starts, for good, as PID 1 is. A manager
//! reaps only what belongs to its own unit, so several of them, and ordinary children, live together.
//!
//! ```ignore
//! let manager = service.manager();
//! manager.wait_for("the successor as main process", |s| s.main == Some(pid));
//! assert_eq!(manager.refused(), []);
//! ```

mod message;
mod pid1;
mod state;
mod store;
mod unit;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use message::{Message, Verdict};
pub use state::{Active, Event, State};
pub use store::Stored;
pub use unit::{NotifyAccess, Restart, Unit};

/// How long anything ordinary may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A manager with one unit, started.
#[derive(Debug)]
pub struct Manager {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    wake: OwnedFd,
    thread: Option<JoinHandle<()>>,
    /// What `NOTIFY_SOCKET` says: a path, or `@` and an abstract name.
    pub notify_socket: String,
}

#[derive(Debug)]
struct Shared {
    /// Held by the manager while it works, so that nobody sees half of a message's effects.
    gate: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

/// What the test asks the manager's thread to do.
#[derive(Debug)]
enum Order {
    Stop { restart: bool },
    Start,
    Reload { command: Vec<String> },
    Freeze(bool),
    Abandon,
}

/// How a `systemctl reload` ended.
#[derive(Debug, Clone, Copy)]
pub struct Reloaded {
    /// `None`: killed at the timeout.
    pub status: Option<ExitStatus>,
    /// How long it took.
    pub took: Duration,
}

impl Manager {
    /// Starts the unit and returns at once.
    pub fn start(unit: Unit) -> Self {
        super::proc::become_subreaper().expect("a subreaper");
        let (orders, received) = mpsc::channel();
        let (woken, wake) = rustix::pipe::pipe_with(
            rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK,
        )
        .expect("a pipe");
        let shared = Arc::new(Shared {
            gate: Mutex::new(()),
            state: Mutex::new(State::new(Instant::now())),
            changed: Condvar::new(),
        });
        let (socket, notify_socket) = unit.notify_socket();
        let pid1 = pid1::Pid1::new(unit, socket, notify_socket.clone(), shared.clone());
        let thread = std::thread::Builder::new()
            .name("manager".into())
            .spawn(move || pid1.run(&received, &woken))
            .expect("a thread for the manager");
        Self {
            shared,
            orders,
            wake,
            thread: Some(thread),
            notify_socket,
        }
    }

    /// Waits until this is true of the manager's state. Panics with the whole story when it does
    /// not come about.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, mut found: impl FnMut(&State) -> Option<T>) -> T {
        self.wait_within(what, SOON, &mut found)
    }

    /// The same with a deadline of its own.
    #[track_caller]
    pub fn wait_within<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut found: impl FnMut(&State) -> Option<T>,
    ) -> T {
        let end = Instant::now() + deadline;
        let mut gate = self.shared.pass();
        loop {
            if let Some(value) = found(&self.shared.lock()) {
                return value;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(gate);
                panic!("waited {deadline:?} for {what}\n{}", self.story());
            }
            gate = self
                .shared
                .changed
                .wait_timeout(gate, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for `READY=1`; the main process then.
    #[track_caller]
    pub fn wait_ready(&self) -> u32 {
        self.wait_for("READY=1", |s| {
            s.main.filter(|_| s.active == Active::Running)
        })
    }

    /// Waits until this is the main process.
    #[track_caller]
    pub fn wait_main(&self, pid: u32) {
        self.wait_for(&format!("MAINPID={pid}"), |s| {
            (s.main == Some(pid)).then_some(())
        });
    }

    /// Looks at the state.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        let _gate = self.shared.pass();
        look(&self.shared.lock())
    }

    /// The main process now.
    pub fn main(&self) -> Option<u32> {
        self.look(|s| s.main)
    }

    /// Messages that were refused.
    pub fn refused(&self) -> Vec<Message> {
        let refused = |m: &&Message| matches!(m.verdict, Verdict::Refused(_));
        self.look(|s| s.messages.iter().filter(refused).cloned().collect())
    }

    /// `systemctl stop`. Waits for the end; false when something had to be killed.
    #[track_caller]
    pub fn stop(&self) -> bool {
        let killed = self.look(|s| s.killed.len());
        self.order(Order::Stop { restart: false });
        self.wait_for("the unit to stop", |s| {
            (s.active == Active::Dead).then_some(())
        });
        self.look(|s| s.killed.len()) == killed
    }

    /// `systemctl restart`; the store is kept. Waits until the next start began.
    #[track_caller]
    pub fn restart(&self) {
        let starts = self.look(|s| s.starts);
        self.order(Order::Stop { restart: true });
        self.wait_for("the next start", |s| (s.starts > starts).then_some(()));
    }

    /// `systemctl start` of a unit that is dead.
    pub fn start_again(&self) {
        self.order(Order::Start);
    }

    /// `systemctl reload`: runs `ExecReload=`, `$MAINPID` replaced and in the environment, and waits
    /// for its end (or `TimeoutStartSec`, which `EXTEND_TIMEOUT_USEC=` moves).
    #[track_caller]
    pub fn reload(&self, command: &[&str]) -> Reloaded {
        let before = self.look(|s| s.reloads.len());
        let command = command.iter().map(|&s| s.to_owned()).collect();
        self.order(Order::Reload { command });
        self.wait_within("the reload to end", Duration::from_secs(120), |s| {
            s.reloads.get(before).copied()
        })
    }

    /// Reads no message any more, as a busy PID 1; `false`: reads on.
    pub fn freeze(&self, frozen: bool) {
        self.order(Order::Freeze(frozen));
        self.wait_for("the manager to (un)freeze", |s| {
            (s.frozen == frozen).then_some(())
        });
    }

    /// Everything that happened, for a failing test.
    pub fn story(&self) -> String {
        self.look(State::story)
    }

    /// The manager's thread ends and touches no process any more.
    pub fn abandon(&mut self) {
        self.order(Order::Abandon);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the manager's thread panicked"
            );
        }
    }

    fn order(&self, order: Order) {
        // An error: the thread has ended, and a wait will tell the story.
        let _ = self.orders.send(order);
        let _ = rustix::io::write(&self.wake, &[1]);
    }
}

impl Shared {
    fn pass(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.abandon();
        }
    }
}

/// The device and inode of a descriptor: the same socket has the same ones wherever it is open.
pub fn inode(fd: impl AsFd) -> (u64, u64) {
    let stat = rustix::fs::fstat(fd).expect("an open descriptor");
    (stat.st_dev, stat.st_ino)
}

/// Sends a datagram to a notify socket, as a service would; for the kit's own tests.
pub fn notify(socket: &str, text: &str, fds: &[&OwnedFd]) -> std::io::Result<()> {
    message::send(socket, text, fds)
}

/// Where a unit's notify socket lies unless it is abstract.
pub fn notify_path(dir: &Path) -> PathBuf {
    dir.join("notify")
}
