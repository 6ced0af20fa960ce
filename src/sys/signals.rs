//! Signals as events: blocked, and read from a signalfd with who sent them.
//!
//! Blocked means blocked in every thread: call these before there are others. Nothing is ever
//! unblocked again but in a worker; children get a mask of their own (`spawn`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::libc;
use nix::sys::signal::SigSet;
pub use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::kernel;

/// What operators, scripts and systemd send to a master, in the order in which nginx's sequences
/// have them. The kernel keeps no order among those that wait (it gives the lowest number first,
/// signal(7)): of a script's `USR2`, `WINCH`, `QUIT` in one breath a busy master would see `QUIT`
/// first, and stop the service.
pub const OPERATOR: &[Signal] = &[
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGINT,
];

/// Those that do not end a service, and that kill a program which does not know them yet:
/// `systemctl kill --signal=USR1` reaches every process of the unit, also one that was executed a
/// moment ago. Masters and workers are executed with these blocked ([`Spawn::blocked`](
/// super::spawn::Spawn::blocked)), and receive what came meanwhile.
pub const BLOCKED_AT_EXEC: &[Signal] = &[
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// The signals of this process, from now on.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    /// Read together, in the order of [`OPERATOR`]; what comes later is later.
    breath: VecDeque<Received>,
    /// Registered later, so that this can be opened before there is a runtime.
    watch: Option<AsyncFd<Arc<std::os::fd::OwnedFd>>>,
}

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Which one.
    pub signal: Signal,
    /// Whether a process sent it (`kill`, `systemctl kill`), not the terminal or the kernel.
    pub from_process: bool,
    /// Who, where a process did; 0 when it is of another PID namespace.
    pub sender: u32,
}

impl Signals {
    /// Blocks all of [`OPERATOR`] and receives them: for masters.
    pub fn block_and_open() -> io::Result<Self> {
        block(OPERATOR)?;
        Self::receive(OPERATOR)
    }

    /// Blocks these and receives them.
    pub fn open(signals: &[Signal]) -> io::Result<Self> {
        block(signals)?;
        Self::receive(signals)
    }

    /// Registers with the tokio runtime that [`next`](Self::next) is called in: what could fail then
    /// (for want of descriptors) fails here, before anybody relies on it.
    pub fn register(&mut self) -> io::Result<()> {
        let fd = Arc::new(self.fd.as_fd().try_clone_to_owned()?);
        self.watch = Some(kernel::watch(fd, Interest::READABLE)?);
        Ok(())
    }

    /// The next signal. Needs a tokio runtime, the same one each time. Cancel-safe.
    pub async fn next(&mut self) -> io::Result<Received> {
        if self.watch.is_none() {
            self.register()?;
        }
        loop {
            if let Some(received) = self.try_next()? {
                return Ok(received);
            }
            if let Some(watch) = &self.watch {
                let mut guard = watch.readable().await?;
                // Read before the readiness is cleared, so that none is missed.
                if let Some(received) = breathe(&self.fd, &mut self.breath)? {
                    return Ok(received);
                }
                guard.clear_ready();
            }
        }
    }

    /// The next signal if there is one, without waiting.
    pub fn try_next(&mut self) -> io::Result<Option<Received>> {
        breathe(&self.fd, &mut self.breath)
    }

    fn receive(signals: &[Signal]) -> io::Result<Self> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self {
            fd: SignalFd::with_flags(&set(signals), flags)?,
            breath: VecDeque::new(),
            watch: None,
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// For workers, which `systemctl kill` and systemd's stop reach too, and which obey their master only.
/// Neither ignored nor blocked, which the programs that an application starts would inherit: they
/// are received, and nothing happens.
pub fn ignore_in_worker() -> io::Result<()> {
    kernel::handle_with_nothing(OPERATOR)?;
    Ok(set(OPERATOR).thread_unblock()?)
}

/// Blocks these in this thread and those it starts.
pub fn block(signals: &[Signal]) -> io::Result<()> {
    Ok(set(signals).thread_block()?)
}

fn set(signals: &[Signal]) -> SigSet {
    signals.iter().copied().collect()
}

/// The next one of those that came together; all that wait when there is none.
fn breathe(fd: &SignalFd, breath: &mut VecDeque<Received>) -> io::Result<Option<Received>> {
    if breath.is_empty() {
        // One of each can wait, so this is all there is; a flood does not keep us here.
        while breath.len() < OPERATOR.len() {
            let Some(received) = read(fd)? else { break };
            breath.push_back(received);
        }
        let turn = |r: &Received| OPERATOR.iter().position(|signal| *signal == r.signal);
        breath.make_contiguous().sort_by_key(turn);
    }
    Ok(breath.pop_front())
}

fn read(fd: &SignalFd) -> io::Result<Option<Received>> {
    loop {
        let info = match fd.read_signal() {
            Ok(Some(info)) => info,
            Ok(None) => return Ok(None),
            Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(e.into()),
        };
        let number = i32::try_from(info.ssi_signo).unwrap_or(0);
        // Only what was asked for arrives, and all of that has a name.
        if let Ok(signal) = Signal::try_from(number) {
            let from_process =
                [libc::SI_USER, libc::SI_QUEUE, libc::SI_TKILL].contains(&info.ssi_code);
            return Ok(Some(Received {
                signal,
                from_process,
                sender: if from_process { info.ssi_pid } else { 0 },
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::OpenOptionsExt;
    use std::process::{Child, ChildStdout, Command};
    use std::time::Duration;

    use nix::fcntl::OFlag;

    use super::*;
    use crate::sys::helper;

    const MASTER: &str = "sys::signals::tests::receives_as_a_master";
    const WORKER: &str = "sys::signals::tests::lives_as_a_worker";

    /// libtest has a thread of its own, so they must be blocked before it starts; that they stay so
    /// without this is what `no_thread_started_later_gets_them` is for.
    const BLOCKED: &str = "exec env --block-signal=HUP,INT,QUIT,USR1,USR2,TERM,WINCH \"$0\" \"$@\"";

    #[test]
    #[ignore = "run by the other tests"]
    fn receives_as_a_master() {
        if helper::is_helper() {
            tell(Signals::block_and_open().unwrap(), Signal::SIGQUIT);
        }
    }

    #[test]
    #[ignore = "run by the other tests"]
    fn lives_as_a_worker() {
        if !helper::is_helper() {
            return;
        }
        ignore_in_worker().unwrap();
        helper::say("ready");
        let script = "for s in HUP USR1 USR2 WINCH INT TERM QUIT; do \
                      kill -$s $PPID; done; grep -E 'Sig(Blk|Ign)' /proc/self/status";
        let child = Command::new("/bin/sh").args(["-c", script]).output();
        let text = String::from_utf8(child.unwrap().stdout).unwrap();
        for line in text.lines() {
            helper::say(line.replace('\t', ""));
        }
    }

    /// In a process of its own: says what it receives, until `last`.
    fn tell(mut signals: Signals, last: Signal) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        helper::say("ready");
        runtime.block_on(async {
            loop {
                let r = signals.next().await.unwrap();
                helper::say(format_args!("{} {} {}", r.signal, r.from_process, r.sender));
                if r.signal == last {
                    break;
                }
            }
        });
    }

    /// A helper that runs until it is told to quit.
    struct Receiver {
        child: Child,
        lines: std::io::Lines<BufReader<ChildStdout>>,
    }

    impl Receiver {
        fn start(command: &mut Command) -> Self {
            let mut child = command.spawn().unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut this = Self { child, lines };
            assert_eq!(this.said(), "ready");
            this
        }

        fn said(&mut self) -> String {
            for line in &mut self.lines {
                if let Some(line) = helper::said(&line.unwrap()) {
                    return line.into();
                }
            }
            panic!("the helper is gone: {:?}", self.child.wait());
        }

        /// From a process, as an operator does it. Returns that process's number.
        fn kill(&self, signal: &str) -> u32 {
            let mut kill = Command::new("/bin/sh")
                .args(["-c", &format!("kill -{signal} {}", self.child.id())])
                .spawn()
                .unwrap();
            assert!(kill.wait().unwrap().success());
            kill.id()
        }

        fn quit(mut self) {
            let sender = self.kill("QUIT");
            assert_eq!(self.said(), format!("SIGQUIT true {sender}"));
            assert!(self.child.wait().unwrap().success());
        }
    }

    impl Drop for Receiver {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[test]
    fn what_a_process_sends_arrives_with_its_number() {
        let mut receiver = Receiver::start(&mut helper::command(BLOCKED, MASTER));
        for signal in ["HUP", "USR1", "USR2", "WINCH", "INT", "TERM", "TERM", "HUP"] {
            let sender = receiver.kill(signal);
            assert_eq!(receiver.said(), format!("SIG{signal} true {sender}"));
        }
        receiver.quit();
    }

    #[test]
    fn what_comes_in_one_breath_arrives_in_the_order_of_nginx_s_sequences() {
        let mut receiver = Receiver::start(&mut helper::command(BLOCKED, MASTER));
        // A master that is busy: what is sent waits in the kernel, which keeps no order.
        receiver.kill("STOP");
        let mut senders = Vec::new();
        for signal in ["WINCH", "USR2", "HUP", "USR1"] {
            senders.push((signal, receiver.kill(signal)));
        }
        let quit = receiver.kill("QUIT");
        receiver.kill("CONT");
        for signal in ["USR1", "USR2", "WINCH", "HUP"] {
            let (_, sender) = senders.iter().find(|(sent, _)| *sent == signal).unwrap();
            assert_eq!(receiver.said(), format!("SIG{signal} true {sender}"));
        }
        assert_eq!(receiver.said(), format!("SIGQUIT true {quit}"));
        assert!(receiver.child.wait().unwrap().success());
    }

    #[test]
    fn what_nohup_ignores_arrives_too() {
        let before = format!("trap '' HUP\n{BLOCKED}");
        let mut receiver = Receiver::start(&mut helper::command(&before, MASTER));
        let sender = receiver.kill("HUP");
        assert_eq!(receiver.said(), format!("SIGHUP true {sender}"));
        receiver.quit();
    }

    #[test]
    fn what_the_terminal_sends_is_told_apart() {
        // Not openpty(3): every child of the other tests would inherit and keep it.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let mut keyboard = nix::pty::posix_openpt(flags).unwrap();
        nix::pty::grantpt(&keyboard).unwrap();
        nix::pty::unlockpt(&keyboard).unwrap();
        let path = nix::pty::ptsname_r(&keyboard).unwrap();
        let terminal = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(&path)
            .unwrap();
        // Leads a session whose terminal is stdin.
        let before = BLOCKED.replace("exec env", "exec setsid --ctty env");
        let mut command = helper::command(&before, MASTER);
        command.stdin(terminal);
        let mut receiver = Receiver::start(&mut command);
        drop(command);

        keyboard.write_all(b"\x03").unwrap();
        assert_eq!(receiver.said(), "SIGINT false 0");
        let resized = Command::new("stty")
            .args(["cols", "33", "-F"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(resized.success());
        assert_eq!(receiver.said(), "SIGWINCH false 0");
        let sender = receiver.kill("WINCH");
        assert_eq!(receiver.said(), format!("SIGWINCH true {sender}"));
        drop(keyboard);
        assert_eq!(receiver.said(), "SIGHUP false 0");
        receiver.quit();
    }

    #[test]
    fn a_worker_survives_them_all_and_its_children_have_none_of_it() {
        let mut receiver = Receiver::start(&mut helper::command(BLOCKED, WORKER));
        assert_eq!(receiver.said(), "SigBlk:0000000000000000");
        let said = receiver.said();
        let ignored = said.strip_prefix("SigIgn:").unwrap();
        // glibc's posix_spawn leaves its own two (32 and 33) ignored.
        let ignored = u64::from_str_radix(ignored, 16).unwrap() & 0x7fff_ffff;
        assert_eq!(ignored, 0);
        assert!(receiver.child.wait().unwrap().success());
    }

    #[test]
    fn no_thread_started_later_gets_them() {
        std::thread::spawn(|| {
            block(OPERATOR).unwrap();
            std::thread::spawn(|| {
                let mask = SigSet::thread_get_mask().unwrap();
                assert!(OPERATOR.iter().all(|signal| mask.contains(*signal)));
                assert!(!mask.contains(Signal::SIGCHLD));
            })
            .join()
            .unwrap();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn they_can_be_polled_without_a_runtime() {
        std::thread::spawn(|| {
            let mut signals = Signals::open(&[Signal::SIGCONT]).unwrap();
            assert_eq!(signals.try_next().unwrap(), None);
            // To this thread alone.
            nix::sys::signal::raise(Signal::SIGCONT).unwrap();
            let mut fds = [rustix::event::PollFd::new(
                &signals,
                rustix::event::PollFlags::IN,
            )];
            let limit = Duration::from_secs(10).try_into().unwrap();
            assert_eq!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 1);
            let received = signals.try_next().unwrap().unwrap();
            assert_eq!(received.signal, Signal::SIGCONT);
            assert!(received.from_process);
            assert_eq!(received.sender, std::process::id());
            assert_eq!(signals.try_next().unwrap(), None);
        })
        .join()
        .unwrap();
    }
}
