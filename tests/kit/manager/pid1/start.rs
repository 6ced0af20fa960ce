//! Starting, stopping and reloading the unit.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::Signal;

use super::{Control, Pid1};
use crate::kit::manager::Reloaded;
use crate::kit::manager::state::{Active, Event};
use crate::kit::proc::{Pinned, Process};

impl Pid1 {
    pub(super) fn start(&mut self) {
        self.restart_at = None;
        self.stop_asked = false;
        self.restart_asked = false;
        self.failed = false;
        self.main_ended = false;
        let pid = self.exec_start();
        let now = Instant::now();
        self.deadline = Some(now + self.unit.timeout_start);
        self.fed = now;
        self.watchdog = self.unit.watchdog;
        let mut state = self.state();
        state.starts += 1;
        state.ready_by = None;
        state.become_active(Active::Activating);
        state.happen(Event::Started { pid });
        drop(state);
        self.set_main(pid);
    }

    pub(super) fn exec_start(&mut self) -> u32 {
        let mut names = Vec::new();
        let mut fds = Vec::new();
        let clone = |fd: &OwnedFd| fd.try_clone().expect("a descriptor");
        for (name, fd) in &self.unit.sockets {
            names.push(name.clone());
            fds.push(clone(fd));
        }
        // The store follows, the last one first.
        for stored in self.state().store.iter().rev() {
            names.push(stored.name.clone());
            fds.push(clone(&stored.fd));
        }
        // systemd's default soft limit; the hard one is ours.
        let mut script = String::from("ulimit -S -n 1024; ");
        let mut command = self.command();
        if !fds.is_empty() {
            script.push_str("export LISTEN_PID=$$; ");
            command.env("LISTEN_FDS", fds.len().to_string());
            command.env("LISTEN_FDNAMES", names.join(":"));
        }
        if let Some(watchdog) = self.unit.watchdog {
            script.push_str("export WATCHDOG_PID=$$; ");
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        script.push_str("export SYSTEMD_EXEC_PID=$$; exec \"$@\"");
        command.args(["-c", &script, "sh"]);
        command.arg(&self.unit.program).args(&self.unit.args);
        let mappings = fds
            .into_iter()
            .zip(3..)
            .map(|(parent_fd, child_fd)| FdMapping {
                parent_fd,
                child_fd,
            });
        command
            .fd_mappings(mappings.collect())
            .expect("different numbers");
        let pid = command.spawn().expect("a shell").id();
        self.remember(pid);
        pid
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command
            .env_clear()
            .envs(self.unit.env.iter().map(|(k, v)| (k, v)))
            .env("NOTIFY_SOCKET", &self.notify_socket)
            .env("INVOCATION_ID", format!("{:032x}", fastrand::u128(..)))
            .current_dir(&self.unit.dir)
            .stdin(Stdio::null());
        if let Some(dir) = &self.unit.runtime_dir {
            command.env("RUNTIME_DIRECTORY", dir);
        }
        if let Some(dir) = &self.unit.state_dir {
            command.env("STATE_DIRECTORY", dir);
        }
        if self.unit.tell_fdstore && self.unit.fdstore_max > 0 {
            command.env("FDSTORE", self.unit.fdstore_max.to_string());
        }
        let log = self.unit.log.as_ref().map(|path| {
            let mut options = File::options();
            options.create(true).append(true);
            let open = || options.open(path).expect("a log file");
            (open(), open())
        });
        match log {
            Some((out, err)) => command.stdout(out).stderr(err),
            None => command.stdout(Stdio::null()).stderr(Stdio::null()),
        };
        command
    }

    pub(super) fn set_main(&mut self, pid: u32) {
        let alien = Process::look(pid).is_none_or(|p| p.parent != std::process::id());
        self.main = Pinned::open(pid);
        self.told_alien = false;
        self.main_ended = false;
        let mut state = self.state();
        if state.main != Some(pid) {
            state.main_is_alien = alien;
            state.main = Some(pid);
            state.happen(Event::Main { pid, alien });
        }
    }

    pub(super) fn stop(&mut self, restart: bool) {
        self.restart_asked = restart;
        if matches!(self.state().active, Active::Dead | Active::AutoRestart) {
            self.restart_at = None;
            self.state().become_active(Active::Dead);
            if restart {
                self.start();
            }
            return;
        }
        self.stop_asked = true;
        if let Some(control) = self.control.take() {
            self.signal(control.pid, Signal::TERM);
        }
        if self.unit.exec_stop.is_empty() {
            self.terminate(true);
        } else {
            // STOPPING=1 changes nothing any more, and nothing is killed while the command runs.
            self.state().become_active(Active::Deactivating);
            let command = self.unit.exec_stop.clone();
            self.run_control(&command, true);
            self.deadline = Some(Instant::now() + self.unit.timeout_stop);
        }
    }

    /// `SIGTERM` to the whole unit, with the rule about alien main processes.
    pub(super) fn terminate(&mut self, with_alien_rule: bool) {
        self.search(true);
        self.state().become_active(Active::Deactivating);
        self.deadline = Some(Instant::now() + self.unit.timeout_stop);
        let (main, alien) = {
            let state = self.state();
            (state.main, state.main_is_alien)
        };
        let mut others = false;
        for pid in self.living() {
            self.signal(pid, Signal::TERM);
            self.signal(pid, Signal::CONT);
            others |= Some(pid) != main;
        }
        let main = main.filter(|_| !self.main_ended && alien && !others && with_alien_rule);
        if let Some(pid) = main {
            self.state().happen(Event::KilledAtOnce { pid });
            self.kill_all();
        }
    }

    pub(super) fn kill_all(&mut self) {
        self.search(true);
        for pid in self.living() {
            self.signal(pid, Signal::KILL);
            let mut state = self.state();
            state.killed.push(pid);
            state.happen(Event::Killed { pid });
        }
    }

    pub(super) fn reload(&mut self, command: &[String]) {
        if self.state().active != Active::Running {
            let refused = Reloaded {
                status: None,
                took: Duration::ZERO,
            };
            self.state().reloads.push(refused);
            return;
        }
        self.state().become_active(Active::Reloading);
        self.deadline = Some(Instant::now() + self.unit.timeout_start);
        self.run_control(command, false);
    }

    pub(super) fn run_control(&mut self, command: &[String], stop: bool) {
        let main = self.state().main.map(|pid| pid.to_string());
        let mut child = self.command();
        child.args(["-c", "exec \"$@\"", "sh"]);
        for word in command {
            child.arg(word.replace("$MAINPID", main.as_deref().unwrap_or_default()));
        }
        if let Some(main) = &main {
            child.env("MAINPID", main);
        }
        let pid = child.spawn().expect("a shell").id();
        self.remember(pid);
        self.control = Some(Control {
            pid,
            began: Instant::now(),
            stop,
        });
    }
}
