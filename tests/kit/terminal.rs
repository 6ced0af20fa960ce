//! A terminal with a person in front of it: keys, a window of changing size, a line that can drop.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::OFlag;
use nix::pty::PtyMaster;

/// What the interrupt key sends.
pub const CTRL_C: u8 = 3;
/// What the quit key sends.
pub const CTRL_BACKSLASH: u8 = 28;

/// Hangs up when it is dropped.
#[derive(Debug)]
pub struct Terminal {
    keyboard: PtyMaster,
    path: String,
    shown: Arc<Mutex<String>>,
    stop: Option<std::os::fd::OwnedFd>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Terminal {
    /// Somebody sits down and reads.
    pub fn open() -> Self {
        // Not openpty(3): its descriptors would be inherited by every child of the test.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let keyboard = nix::pty::posix_openpt(flags).expect("a terminal");
        nix::pty::grantpt(&keyboard).expect("a terminal of ours");
        nix::pty::unlockpt(&keyboard).expect("a terminal to use");
        let path = nix::pty::ptsname_r(&keyboard).expect("its name");
        let shown = Arc::new(Mutex::new(String::new()));
        let (stopped, stop) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        let screen = keyboard.as_fd().try_clone_to_owned().expect("a descriptor");
        let text = Arc::clone(&shown);
        let reader = std::thread::Builder::new()
            .name("terminal".into())
            .spawn(move || read(screen.into(), &stopped, &text))
            .expect("a thread for the terminal");
        Self {
            keyboard,
            path,
            shown,
            stop: Some(stop),
            reader: Some(reader),
        }
    }

    /// For a program's standard streams.
    pub fn screen(&self) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NOCTTY.bits())
            .open(&self.path)
            .expect("the terminal's other side")
    }

    /// Presses a key.
    pub fn press(&mut self, key: u8) {
        self.keyboard.write_all(&[key]).expect("a keyboard");
    }

    /// Makes the window so wide.
    pub fn resize(&self, columns: u16) {
        let done = Command::new("stty")
            .args(["-F", &self.path, "cols", &columns.to_string()])
            .status()
            .expect("stty runs");
        assert!(done.success());
    }

    /// What was written so far.
    pub fn text(&self) -> String {
        self.shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The line drops.
    pub fn hang_up(self) {
        drop(self);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The reader's copy must go too, or the line would not drop.
        self.stop.take();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if std::thread::panicking() {
            eprintln!("--- terminal\n{}", self.text());
        }
    }
}

fn read(mut screen: File, stopped: &std::os::fd::OwnedFd, shown: &Mutex<String>) {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut bytes = [0; 4096];
    loop {
        let mut polled = [
            PollFd::new(&screen, PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        if poll(&mut polled, None).is_err() {
            continue;
        }
        if !polled[1].revents().is_empty() {
            return;
        }
        if polled[0].revents().contains(PollFlags::IN) {
            let Ok(n) = screen.read(&mut bytes) else {
                return;
            };
            let text = String::from_utf8_lossy(&bytes[..n]);
            shown
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_str(&text);
        } else {
            // Nobody has it open (any more, or yet).
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
