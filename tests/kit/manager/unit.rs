//! A unit: what to start and how strictly.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with, sockopt,
};

/// `NotifyAccess=`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyAccess {
    /// Every process of the unit.
    All,
    /// The main process.
    Main,
    /// The main process and the commands of the unit.
    Exec,
}

/// `Restart=`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Stays dead.
    No,
    /// After anything but exit 0 or a stop that was asked for.
    OnFailure,
    /// After anything but a stop that was asked for.
    Always,
}

/// What a unit file says, and a `.socket` file.
#[derive(Debug)]
pub struct Unit {
    /// `ExecStart=`, the program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The whole environment but for what the manager sets.
    pub env: Vec<(OsString, OsString)>,
    /// The value of `HANDOVER_KIT` in `env`: who has it belongs to the unit.
    pub marker: String,
    /// For the notify socket, and the working directory.
    pub dir: PathBuf,
    /// `RUNTIME_DIRECTORY`
    pub runtime_dir: Option<PathBuf>,
    /// `STATE_DIRECTORY`
    pub state_dir: Option<PathBuf>,
    /// Where standard output and error are appended.
    pub log: Option<PathBuf>,
    /// Listening sockets of a `.socket` unit, by name.
    pub sockets: Vec<(String, OwnedFd)>,
    /// `NotifyAccess=`; `all` unless said.
    pub access: NotifyAccess,
    /// `NOTIFY_SOCKET=@...` instead of a path.
    pub abstract_socket: bool,
    /// `FileDescriptorStoreMax=`; 1024 unless said.
    pub fdstore_max: usize,
    /// Whether the service is told so in `FDSTORE=` (systemd 254 and later).
    pub tell_fdstore: bool,
    /// `WatchdogSec=`
    pub watchdog: Option<Duration>,
    /// `Restart=`; `on-failure` unless said.
    pub restart: Restart,
    /// `RestartPreventExitStatus=`; 64, 77 and 78 unless said.
    pub restart_prevent: Vec<i32>,
    /// `RestartSec=`; 100 ms unless said.
    pub restart_after: Duration,
    /// `TimeoutStartSec=`, also for a reload.
    pub timeout_start: Duration,
    /// `TimeoutStopSec=`
    pub timeout_stop: Duration,
    /// `ExecStop=`, `$MAINPID` replaced; empty: none.
    pub exec_stop: Vec<String>,
}

impl Unit {
    /// A unit that runs `program`, with everything as handover's own unit has it.
    pub fn new(program: &Path, marker: &str, dir: &Path) -> Self {
        Self {
            program: program.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            marker: marker.to_owned(),
            dir: dir.to_owned(),
            runtime_dir: None,
            state_dir: None,
            log: None,
            sockets: Vec::new(),
            access: NotifyAccess::All,
            abstract_socket: false,
            fdstore_max: 1024,
            tell_fdstore: true,
            watchdog: None,
            restart: Restart::OnFailure,
            restart_prevent: vec![64, 77, 78],
            restart_after: Duration::from_millis(100),
            timeout_start: Duration::from_secs(15),
            timeout_stop: Duration::from_secs(15),
            exec_stop: Vec::new(),
        }
    }

    pub(super) fn notify_socket(&self) -> (OwnedFd, String) {
        let (address, name) = if self.abstract_socket {
            let name = format!("kit-{}", self.marker);
            let address = SocketAddrUnix::new_abstract_name(name.as_bytes());
            (address, format!("@{name}"))
        } else {
            let path = super::notify_path(&self.dir);
            let name = path.display().to_string();
            (SocketAddrUnix::new(path), name)
        };
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .expect("a datagram socket");
        sockopt::set_socket_passcred(&socket, true).expect("credentials");
        bind(&socket, &address.expect("a short name")).expect("a new notify socket");
        if !self.abstract_socket {
            // The service may run as another user.
            std::fs::set_permissions(&name, PermissionsExt::from_mode(0o777)).expect("its mode");
        }
        (socket, name)
    }
}
