//! What of the kernel's interface has no safe form elsewhere: the only file with `unsafe`. Each function
//! is safe to call with whatever its types allow.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use rustix::io::FdFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `posix_spawn_file_actions_t`, destroyed when dropped.
pub(super) struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    pub(super) fn new() -> io::Result<Self> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: it initialises what it is given, and says 0 when it has.
        unsafe {
            check(libc::posix_spawn_file_actions_init(raw.as_mut_ptr()))?;
            Ok(Self(raw.assume_init()))
        }
    }

    pub(super) fn fchdir(&mut self, dir: RawFd) -> io::Result<()> {
        // SAFETY: initialised in `new`; a number that is not open makes the spawn fail.
        check(unsafe { libc::posix_spawn_file_actions_addfchdir_np(&raw mut self.0, dir) })
    }

    /// Also when both are the same number: then it is kept open over the exec.
    pub(super) fn dup2(&mut self, from: RawFd, to: RawFd) -> io::Result<()> {
        // SAFETY: as above.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from, to) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, not used after this.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// `posix_spawnattr_t`, destroyed when dropped.
pub(super) struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// No other signal blocked, every disposition the default.
    pub(super) fn clean(new_session: bool, blocked: &[Signal]) -> io::Result<Self> {
        let mut flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        if new_session {
            flags |= i32::from(libc::POSIX_SPAWN_SETSID);
        }
        let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
        let mut raw = MaybeUninit::uninit();
        // SAFETY: `init` initialises what it is given and says 0 when it has; from then on `Self`
        // destroys it. The sets are valid for the calls, which copy them; every bit of a set may be
        // on. (sigfillset(3) leaves out the two that glibc uses itself, and posix_spawn then leaves
        // those *ignored* in the child.)
        unsafe {
            check(libc::posix_spawnattr_init(raw.as_mut_ptr()))?;
            let mut this = Self(raw.assume_init());
            check(libc::posix_spawnattr_setflags(&raw mut this.0, flags))?;
            check(libc::posix_spawnattr_setsigmask(
                &raw mut this.0,
                blocked.iter().copied().collect::<SigSet>().as_ref(),
            ))?;
            let mut every = MaybeUninit::<libc::sigset_t>::uninit();
            every.as_mut_ptr().write_bytes(0xff, 1);
            check(libc::posix_spawnattr_setsigdefault(
                &raw mut this.0,
                every.as_ptr(),
            ))?;
            Ok(this)
        }
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `clean`, not used after this.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

/// Starts a program and says the number of its process (`posix_spawn(3)`). The actions name descriptors by
/// number: they are open until here.
pub(super) fn posix_spawn(
    path: &CStr,
    actions: &Actions,
    attributes: &Attributes,
    argv: &[CString],
    envp: &[CString],
) -> io::Result<libc::pid_t> {
    let pointers = |strings: &[CString]| -> Vec<*mut libc::c_char> {
        strings
            .iter()
            .map(|s| s.as_ptr().cast_mut())
            .chain(std::iter::once(std::ptr::null_mut()))
            .collect()
    };
    let (argv, envp) = (pointers(argv), pointers(envp));
    let mut pid = 0;
    // SAFETY: both lists end in NULL and point to strings that outlive the call, which writes to
    // none of them (execve(2)); actions and attributes are initialised.
    check(unsafe {
        libc::posix_spawn(
            &raw mut pid,
            path.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            argv.as_ptr(),
            envp.as_ptr(),
        )
    })?;
    Ok(pid)
}

/// The `posix_spawn` family returns its errors instead of setting `errno`.
fn check(error: libc::c_int) -> io::Result<()> {
    if error == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(error))
    }
}

/// Everything of ours but 0, 1 and 2. Belt and braces: ours is close-on-exec from birth, a library's may not be. Kernels before 5.11
/// do not know it; there a library's descriptor can leak.
pub(super) fn close_all_on_exec() {
    let first = libc::c_uint::try_from(libc::STDERR_FILENO + 1).unwrap_or(3);
    // SAFETY: it sets a flag of descriptors and touches no memory. By number, because not every
    // libc has the wrapper.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
    }
}

/// Takes over a descriptor that this process was born with, and makes it close-on-exec. Each number
/// once; only for [`inherit`](super::inherited::inherit), before anything else was opened.
pub(super) fn adopt_fd(number: RawFd) -> io::Result<OwnedFd> {
    static ADOPTED: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

    let bad = || io::Error::from(Errno::EBADF);
    // 0, 1 and 2 belong to the standard library.
    if number <= libc::STDERR_FILENO
        || !ADOPTED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number)
    {
        return Err(bad());
    }
    // SAFETY: fcntl(2) on a number reads no memory and fails when nothing is open there.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(bad());
    }
    // SAFETY: it is open, inherited over an exec, so no code of this process opened it; and nobody
    // has adopted it before.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Registers a descriptor with the tokio runtime this runs in: `AsyncFd`'s safe constructor is
/// deprecated because a type may lie about its number, which an `Arc<OwnedFd>` cannot.
pub(crate) fn watch(fd: Arc<OwnedFd>, interest: Interest) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the number is that of an open descriptor for as long as the `Arc` lives, and nobody
    // can change it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}

/// The supplementary groups of the process at the other end of a Unix socket, when it connected
/// (`SO_PEERGROUPS`). The kernel's word: `/proc` shows nothing of other users to a service under
/// `ProtectProc=invisible`.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let bytes = groups.len() * size_of::<libc::gid_t>();
        let mut length = libc::socklen_t::try_from(bytes).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes, which is the buffer's size, and puts
        // into `length` how many there are.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let number = usize::try_from(length).map_err(io::Error::other)? / size_of::<libc::gid_t>();
        match Errno::result(result) {
            Ok(_) => {
                groups.truncate(number);
                return Ok(groups);
            }
            // There are more: so many.
            Err(Errno::ERANGE) if number > groups.len() => groups.resize(number, 0),
            Err(e) => return Err(e.into()),
        }
    }
}

/// How many bytes that were written to a socket its peer has not acknowledged (a Unix socket's: has not
/// read), a FIN counted as one (`SIOCOUTQ`, tcp(7), unix(7)).
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one `int` there. (`TIOCOUTQ` is the same number.)
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    usize::try_from(bytes).map_err(io::Error::other)
}

/// Gives the signals that whoever started us had set to be ignored their default action, but for
/// `except`. Handlers stay.
pub(super) fn default_dispositions(except: &[Signal]) {
    for number in 1..=libc::SIGRTMAX() {
        if except.iter().any(|signal| *signal as libc::c_int == number) {
            continue;
        }
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: it writes the present action to valid memory; all zeros is a valid `sigaction`
        // where it does not (the libc's own signals). The default action is no code of ours.
        unsafe {
            libc::sigaction(number, std::ptr::null(), action.as_mut_ptr());
            let mut action = action.assume_init();
            if action.sa_sigaction == libc::SIG_IGN {
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(number, &raw const action, std::ptr::null_mut());
            }
        }
    }
}

/// Receives these and does nothing. Unlike a blocked or an ignored signal that is not passed on to
/// the programs we start: a handler is reset at their exec (signal(7)).
pub(super) fn handle_with_nothing(signals: &[Signal]) -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}

    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in signals {
        // SAFETY: a handler that does nothing may run at any moment.
        unsafe { nix::sys::signal::sigaction(*signal, &action) }?;
    }
    Ok(())
}

/// Takes a variable out of our own environment, so that no program started by an application has it.
/// Only while no other thread could be reading it, which is so on the first line of a `main`.
pub(super) fn forget_variable(name: &str) {
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1);
    if alone {
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no other thread, and a child must not take itself for one of ours"
        )]
        // SAFETY: no other thread reads or writes the environment: there is none.
        unsafe {
            std::env::remove_var(name);
        }
    }
}

/// The path this process was executed by, links unresolved (`AT_EXECFN`): right where `argv[0]`
/// may be anything. `None` when it was executed by descriptor.
pub(super) fn executed_path() -> Option<PathBuf> {
    // SAFETY: reads the auxiliary vector.
    let address = usize::try_from(unsafe { libc::getauxval(libc::AT_EXECFN) }).ok()?;
    if address == 0 {
        return None;
    }
    // SAFETY: the kernel put a terminated string there, which stays for the process's life.
    let path = unsafe { CStr::from_ptr(std::ptr::with_exposed_provenance(address)) };
    let path = OsStr::from_bytes(path.to_bytes());
    let by_descriptor = [&b"/proc/self/fd/"[..], b"/dev/fd/"]
        .iter()
        .any(|prefix| path.as_bytes().starts_with(prefix));
    (!path.is_empty() && !by_descriptor).then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_and_closed_descriptors_are_not_adopted() {
        for number in [-1, 0, 1, 2, 1_000_000] {
            let error = adopt_fd(number).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        }
    }

    #[test]
    fn the_executed_path_is_this_test() {
        let path = executed_path().unwrap();
        assert_eq!(
            path.canonicalize().unwrap(),
            std::env::current_exe().unwrap()
        );
    }
}
