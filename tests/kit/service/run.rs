//! Runs the program as a client: orders and questions.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{Pinned, SOON, Service};

/// What a client said and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// As typed.
    pub command: String,
    /// Its exit code; 128 and the signal when it was killed.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Output {
    /// Panics unless this is the exit code.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert!(self.code == code, "expected exit code {code}: {self}");
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            command,
            code,
            stdout,
            stderr,
            took,
        } = self;
        writeln!(f, "{command} exited with {code} after {took:.3?}")?;
        for (what, text) in [("stdout", stdout), ("stderr", stderr)] {
            if !text.is_empty() {
                writeln!(f, "  {what}: {}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// A client that runs beside the test; killed when it is dropped.
#[derive(Debug)]
pub struct Pending<'a> {
    service: &'a Service,
    command: String,
    began: Instant,
    child: Option<Child>,
    files: tempfile::TempDir,
}

impl Service {
    /// Runs a client (the program under test as it was built, whatever is on disk now) with this
    /// service's directories, and waits for its end.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Output {
        self.cli_start(args).finish(SOON)
    }

    /// Starts a client.
    #[track_caller]
    pub fn cli_start(&self, args: &[&str]) -> Pending<'_> {
        self.client_start(&self.client, args)
    }

    /// Runs another program as a client: what is on disk now, or `handover.old`.
    #[track_caller]
    pub fn client_start(&self, program: &Path, args: &[&str]) -> Pending<'_> {
        let files = tempfile::tempdir_in(self.dir()).expect("a directory for the output");
        let file = |name: &str| File::create(files.path().join(name)).expect("an output file");
        let child = Command::new(program)
            .arg("--name")
            .arg(&self.name)
            .arg("--runtime-dir")
            .arg(&self.runtime)
            .arg("--state-dir")
            .arg(&self.state)
            .args(args)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .current_dir(self.dir())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {}: {e}", program.display()));
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let command = format!("{name} {}", args.join(" "));
        self.note(&format!("started {command} ({})", child.id()));
        Pending {
            service: self,
            command,
            began: Instant::now(),
            child: Some(child),
            files,
        }
    }
}

impl Pending<'_> {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("not finished").id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut().expect("not finished");
        child.try_wait().expect("our own child").is_none()
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// Waits for its end. Panics when that takes too long.
    #[track_caller]
    pub fn finish(mut self, deadline: Duration) -> Output {
        let pinned = Pinned::open(self.pid()).expect("our child is not reaped yet");
        assert!(
            pinned.wait_ended(deadline),
            "{} runs for more than {deadline:?}; it said {} {}",
            self.command,
            self.read("stdout"),
            self.read("stderr")
        );
        let took = self.began.elapsed();
        let mut child = self.child.take().expect("not finished");
        let output = Output {
            command: self.command.clone(),
            code: code_of(child.wait().expect("our own child")),
            stdout: self.read("stdout"),
            stderr: self.read("stderr"),
            took,
        };
        self.service.note(&output.to_string());
        output
    }

    fn read(&self, name: &str) -> String {
        let bytes = std::fs::read(self.files.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// As a shell shows it.
pub fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}
