//! For tests of what belongs to a whole process (signals, the environment, children): runs one
//! ignored test of this binary in a process of its own and reads the lines it says.

use std::process::{Command, Stdio};

/// Set for the helper, so that `cargo test -- --ignored` finds nothing to do.
const MARK: &str = "HANDOVER_TEST_HELPER";

/// What a line from the helper begins with; libtest writes to stdout, too.
const SAYS: &str = "@ ";

/// A shell that runs `before` and then becomes the test with that path, alone, with no other
/// environment.
pub(crate) fn command(before: &str, test: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &format!("{before}\nexec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .args(["--test-threads", "1"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// Whether this is the helper: the test runs for real, at most a minute.
pub(crate) fn is_helper() -> bool {
    let helper = std::env::var_os(MARK).is_some();
    if helper {
        nix::unistd::alarm::set(60);
    }
    helper
}

/// Says a line to the test that started this helper.
pub(crate) fn say(line: impl std::fmt::Display) {
    println!("\n{SAYS}{line}");
}

/// What the helper said in this line of its output.
pub(crate) fn said(line: &str) -> Option<&str> {
    line.strip_prefix(SAYS)
}

/// Runs it to its end: everything it said.
pub(crate) fn run(command: &mut Command) -> Vec<String> {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{} said: {text}", output.status);
    text.lines().filter_map(said).map(Into::into).collect()
}
