//! The command line. What was typed (`typed`, clap's) is not what is meant ([`Invocation`]):
//! nginx's flags and our subcommands mean the same things, and everything behind this file sees
//! only the meaning.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use crate::api::{self, UpgradeOrder};
use crate::config::Workers;

mod own;
mod typed;

pub use own::Own;
use typed::Typed;

/// The program whose command line this is: the daemon, or a library user's service.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The service's name unless `--name` says another.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// One sentence for `--help`.
    pub about: &'static str,
    /// What it means when nothing at all was typed.
    pub bare: Bare,
    /// Whether it serves a directory (`run --root`) or hosts an application (`run --app`).
    pub site: bool,
    /// What the application adds.
    pub own: Own,
}

/// What it means when nothing at all was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bare {
    /// Short help on stderr, exit 64: a person who types `handover` wants to know what it is, not
    /// a server in the foreground.
    Help,
    /// The service starts: `cargo run` of an application that uses the library.
    Run,
}

/// What was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// Which service.
    pub globals: Globals,
    /// What about it.
    pub command: Command,
    /// What was typed of the application's own arguments.
    pub own: Option<clap::ArgMatches>,
}

/// Which service, and where it lives; valid before and after the subcommand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Globals {
    /// `--name`: a file name's worth of it.
    pub name: Option<String>,
    /// `--runtime-dir`.
    pub runtime_dir: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--config`, `-c`.
    pub config: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Be the service, in the foreground.
    Run(Run),
    /// Read the configuration and say what would be served.
    Check {
        /// By a master, of its successor: nothing is asked of the one that runs.
        preflight: bool,
    },
    /// Make a certificate for a first try.
    Cert(Cert),
    /// Talk to the one that runs.
    Ask(Ask),
    /// The application's own; `own` says which.
    Own,
}

/// `run`: what the command line says over the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// Instead of the configured listeners' addresses.
    pub listen: Vec<String>,
    /// The directory to serve.
    pub root: Option<PathBuf>,
    /// Worker processes.
    pub workers: Option<Workers>,
    /// The release of a hosted application.
    pub app: Option<PathBuf>,
    /// What starts it.
    pub command: Vec<String>,
}

impl Run {
    /// Whether it says anything about a hosted application.
    #[must_use]
    pub fn hosts(&self) -> bool {
        self.app.is_some() || !self.command.is_empty()
    }
}

/// `cert`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cert {
    /// What it is for.
    pub names: Vec<String>,
    /// Where it goes; `None`: `tls` beside the configuration file.
    pub directory: Option<PathBuf>,
}

impl Ask {
    /// Whether it changes something that goes on when nobody waits for it.
    #[must_use]
    pub fn is_order(&self) -> bool {
        match self {
            Self::Upgrade(_)
            | Self::Apply
            | Self::Deploy(_)
            | Self::Commit
            | Self::Rollback
            | Self::Reload
            | Self::Reopen
            | Self::Stop => true,
            Self::Wait(_) | Self::List | Self::Status { .. } | Self::History { .. } => false,
        }
    }
}

/// What is asked of a running service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Run what is on disk now.
    Upgrade(Upgrade),
    /// Make what is on disk be what runs.
    Apply,
    /// Make this directory the release that runs.
    Deploy(Deploy),
    /// Make it final.
    Commit,
    /// Go back.
    Rollback,
    /// Wait until an upgrade is final.
    Wait(Wait),
    /// The services of this program on this host.
    List,
    /// Configuration only.
    Reload,
    /// Reopen log files.
    Reopen,
    /// Drain and leave.
    Stop,
    /// Who owns the service, and how it is.
    Status {
        /// The document itself.
        json: bool,
        /// Again and again.
        watch: bool,
    },
    /// The upgrades there were.
    History {
        /// The whole story of this one; its id or the beginning of it.
        id: Option<String>,
        /// The lines themselves.
        json: bool,
    },
}

/// `wait`: for which.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wait {
    /// Its id or the beginning of it; `None`: the one under way, or the last.
    pub id: Option<String>,
    /// Whichever makes this version serve, also one that has not begun.
    pub version: Option<String>,
    /// For so long.
    pub timeout: Option<std::time::Duration>,
}

/// `upgrade`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upgrade {
    /// Put this file in place first.
    pub binary: Option<PathBuf>,
    /// The order; its id is the client's business.
    pub order: UpgradeOrder,
}

/// `deploy`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deploy {
    /// The release.
    pub directory: PathBuf,
    /// The order; its id is the client's business.
    pub order: UpgradeOrder,
}

/// Reads the command line; says what there is to say itself (help, version, what is wrong).
///
/// `argv` includes the program's name. The error is the exit code to end with: 0 after help or
/// version, 64 after something that makes no sense.
pub fn parse<I, T>(program: &Program, argv: I) -> Result<Invocation, ExitCode>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString>,
{
    interpret(program, argv).map_err(|told| {
        told.print();
        ExitCode::from(told.exit())
    })
}

/// As [`parse`], without a word.
pub fn interpret<I, T>(program: &Program, argv: I) -> Result<Invocation, Told>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString>,
{
    let mut clap = command(program);
    let argv: Vec<OsString> = argv.into_iter().map(Into::into).collect();
    let bare = argv.len() < 2;
    let own_arguments = program.own.arguments.is_some();
    let matches = match clap.try_get_matches_from_mut(&argv) {
        // `hello --loud` is `hello run --loud`.
        Err(e)
            if e.kind() == ErrorKind::UnknownArgument
                && own_arguments
                && program.bare == Bare::Run
                && !names_a_command(&clap, &argv) =>
        {
            clap.try_get_matches_from_mut(with_run(&argv))?
        }
        matches => matches?,
    };
    if matches
        .subcommand_name()
        .is_some_and(|name| program.own.is_own(name))
    {
        return Ok(Invocation {
            globals: Globals::default(),
            command: Command::Own,
            own: Some(matches),
        });
    }
    let typed = Typed::from_arg_matches(&matches)?;
    let mut invocation = typed.meaning(program, &mut clap, bare)?;
    if own_arguments && matches!(invocation.command, Command::Run(_)) {
        // The defaults and what must not be missing, where nothing was typed.
        let whole = match matches.subcommand_name() {
            Some(_) => matches,
            None => clap.try_get_matches_from_mut(with_run(&argv))?,
        };
        invocation.own = whole.subcommand_matches("run").cloned();
    }
    Ok(invocation)
}

fn names_a_command(clap: &clap::Command, argv: &[OsString]) -> bool {
    let names = |word: &OsString| {
        word.to_str()
            .is_some_and(|w| clap.find_subcommand(w).is_some())
    };
    argv.iter().skip(1).any(names)
}

fn with_run(argv: &[OsString]) -> Vec<OsString> {
    let mut argv = argv.to_vec();
    argv.insert(argv.len().min(1), "run".into());
    argv
}

/// The command line as clap has it, for completions and the manual page.
#[must_use]
pub fn command(program: &Program) -> clap::Command {
    let hide_root = !program.site;
    let ours = typed_command()
        .name(program.name)
        .about(program.about)
        .version(program.version)
        .mut_subcommand("run", |run| {
            run.mut_arg("root", |root| root.hide(hide_root))
                .mut_arg("app", |app| app.hide(hide_root))
                .mut_arg("command", |command| command.hide(hide_root))
        });
    program.own.add_to(ours)
}

/// Ours alone.
fn typed_command() -> clap::Command {
    Typed::command()
}

/// What is said instead of done.
#[derive(Debug)]
pub struct Told(Saying);

#[derive(Debug)]
enum Saying {
    Clap(Box<clap::Error>),
    /// Asked for by typing nothing.
    Help(clap::builder::StyledStr),
    Version(String),
}

impl Told {
    /// 0: it was asked for; 64: it is a complaint.
    #[must_use]
    pub fn exit(&self) -> u8 {
        match &self.0 {
            Saying::Clap(error) if error.use_stderr() => api::exit::USAGE,
            Saying::Help(_) => api::exit::USAGE,
            Saying::Clap(_) | Saying::Version(_) => api::exit::OK,
        }
    }

    /// Without colours.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.0 {
            Saying::Clap(error) => error.render().to_string(),
            Saying::Help(help) => help.to_string(),
            Saying::Version(text) => text.clone(),
        }
    }

    /// To stdout or stderr, in colour on a terminal. A reader that has left is no reason to fail.
    pub fn print(&self) {
        use std::io::Write;
        match &self.0 {
            Saying::Clap(error) => drop(error.print()),
            Saying::Help(help) => drop(write!(std::io::stderr(), "{help}")),
            Saying::Version(text) => drop(std::io::stdout().write_all(text.as_bytes())),
        }
    }
}

impl From<clap::Error> for Told {
    fn from(error: clap::Error) -> Self {
        Self(Saying::Clap(Box::new(error)))
    }
}

#[cfg(test)]
mod tests;
