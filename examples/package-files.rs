//! Writes the files of the packages that follow from others: `handover(1)` and the shell completions
//! from the command line, the units of `examples/greeter` and its word to needrestart
//! from the daemon's. Its argument is the
//! repository: `cargo run --example package-files -- .`; what it writes is committed, and
//! `tests/packaging.rs` says when it is out of date.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

fn main() -> Result<(), Box<dyn Error>> {
    let at = std::env::args_os().nth(1).ok_or("say where to write")?;
    let at = Path::new(&at);
    units(&at.join("examples/greeter/package"))?;
    let at = at.join("packaging");
    let mut command = handover::daemon().command_line();
    command.build();
    fs::create_dir_all(at.join("man"))?;
    fs::write(at.join("man/handover.1"), manual(&command)?)?;
    let completions = at.join("completions");
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        // A fresh one: building it adds what only its own parser needs.
        let mut command = handover::daemon().command_line();
        clap_complete::generate_to(shell, &mut command, "handover", &completions)?;
    }
    Ok(())
}

/// The daemon's units with another name, and without the reasons.
fn units(at: &Path) -> io::Result<()> {
    fs::create_dir_all(at)?;
    for (unit, ours) in UNITS {
        let mut text = format!("# As systemd/handover{unit}, where each line has its reason.\n");
        for line in ours.lines() {
            // Sections stay apart, comments leave no gaps.
            let gap = line.is_empty() && text.ends_with("\n\n");
            if gap || line.starts_with('#') || line.starts_with("Documentation=") {
                continue;
            }
            let line = line.replace("handover", "greeter");
            match line.strip_prefix("Description=greeter, a web server") {
                Some(_) => text.push_str("Description=greeter"),
                None => text.push_str(&line),
            }
            text.push('\n');
        }
        fs::write(at.join(format!("greeter{unit}")), text)?;
    }
    let needrestart = include_str!("../systemd/needrestart.conf");
    fs::write(
        at.join("greeter.needrestart"),
        needrestart.replace("handover", "greeter"),
    )?;
    Ok(())
}

/// One page for all commands, without a version: it would change with every release.
fn manual(command: &Command) -> Result<Vec<u8>, Box<dyn Error>> {
    let man = Man::new(command.clone().version(None))
        .title("HANDOVER")
        .section("1")
        .source("handover")
        .manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    writeln!(page, ".SH COMMANDS")?;
    for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
        let usage = sub.clone().render_usage().to_string();
        let usage = usage
            .trim_start_matches("Usage: ")
            .replace("[OPTIONS] ", "");
        let usage = usage.replace(" [OPTIONS]", "");
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(
            page,
            ".TP\n\\fB{}\\fR\n{}",
            escaped(&usage),
            escaped(&about)
        )?;
        let mut args = Vec::new();
        for arg in sub.get_arguments() {
            // Global ones have their own section.
            if arg.is_global_set() || arg.is_hide_set() || arg.get_id() == "help" {
                continue;
            }
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            writeln!(
                args,
                ".TP\n\\fB{}\\fR\n{}",
                escaped(&arg.to_string()),
                escaped(&help)
            )?;
        }
        if !args.is_empty() {
            writeln!(page, ".RS")?;
            page.extend(args);
            writeln!(page, ".RE")?;
        }
    }
    man.render_options_section(&mut page)?;
    page.extend(include_bytes!("../packaging/man/handover.1.tail"));
    Ok(page)
}

/// roff takes a dash for a hyphen, and a dot or a quote at the beginning for an order.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}

/// What comes after `handover` in a unit's name, and the unit.
const UNITS: [(&str, &str); 3] = [
    (".service", include_str!("../systemd/handover.service")),
    (
        "-restore.service",
        include_str!("../systemd/handover-restore.service"),
    ),
    (
        "-restore.path",
        include_str!("../systemd/handover-restore.path"),
    ),
];
