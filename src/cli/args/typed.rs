//! What was typed, as clap has it, and what it means.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand, ValueEnum};

use super::{
    Ask, Bare, Cert, Command, Deploy, Globals, Invocation, Program, Run, Saying, Told, Upgrade,
    Wait,
};
use crate::api::{Until, UpgradeOrder};
use crate::cli::places;
use crate::config::Workers;
use crate::machine::message::{PROTOCOL, Protocol};

#[derive(Debug, Parser)]
#[command(disable_version_flag = true, after_help = AFTER)]
pub(super) struct Typed {
    /// Which service [default: this program's name]
    #[arg(long, global = true, value_name = "NAME", value_parser = name, display_order = 90)]
    name: Option<String>,
    /// Where its socket and pid files are
    #[arg(help = RUNTIME_HELP, long, global = true, value_name = "DIR", display_order = 91)]
    runtime_dir: Option<PathBuf>,
    /// Where its history is
    #[arg(help = STATE_HELP, long, global = true, value_name = "DIR", display_order = 92)]
    state_dir: Option<PathBuf>,
    /// Its configuration [default: /etc/NAME/NAME.toml, if there is one]
    #[arg(short, long, global = true, value_name = "FILE", display_order = 93)]
    config: Option<PathBuf>,
    /// As `check` (nginx)
    #[arg(short = 't', conflicts_with = "signal", display_order = 94)]
    test: bool,
    /// stop and quit: as `stop`; reload; reopen: log files (nginx)
    #[arg(short = 's', value_name = "SIGNAL", display_order = 95)]
    signal: Option<Signal>,
    /// The version
    #[arg(short = 'v', long = "version", display_order = 96)]
    version: bool,
    /// The version, and what matters about this build
    #[arg(short = 'V', display_order = 97)]
    build: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Signal {
    Stop,
    Quit,
    Reload,
    Reopen,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Be the service, in the foreground
    Run {
        /// Listen here instead of where the configuration says
        #[arg(long, value_name = "ADDR")]
        listen: Vec<String>,
        /// Serve this directory
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
        /// Worker processes: a number, or "auto" for one a core
        #[arg(long, value_name = "N", value_parser = workers)]
        workers: Option<Workers>,
        /// Host the application of this directory
        #[arg(long, value_name = "DIR")]
        app: Option<PathBuf>,
        /// What starts it; {socket}, {port} or {fd} is where it has to listen [default: PORT in its
        /// environment]
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Read the configuration and what it names, say what would be served
    Check {
        /// By a master, of its successor
        #[arg(long, hide = true)]
        preflight: bool,
    },
    /// Make a certificate that signs itself, for a first try of TLS
    #[command(hide = !cfg!(feature = "tls"))]
    Cert {
        /// What it is for: DNS names or addresses
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Where it goes [default: `tls` beside the configuration file]
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
    /// Run what is on disk now, without failing a request
    Upgrade {
        /// Put this file in place first; it is on trial until it has proved itself
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
        /// How long the way back stays open, such as 60s or 10m; 0s commits at once
        #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "hold")]
        probation: Option<Duration>,
        /// Both generations accept until `commit`, `rollback` or a signal says more
        #[arg(long)]
        hold: bool,
        /// A successor still in probation is taken back first
        #[arg(long)]
        supersede: bool,
        /// When too many generations drain, end the oldest: what it holds is cut
        #[arg(long)]
        end_oldest: bool,
        /// Come back when the successor owns the service, or when it is final
        #[arg(long, value_name = "WHEN", value_enum, default_value_t = When::Takeover)]
        until: When,
    },
    /// Make what is on disk be what runs: upgrade or reload (systemctl reload)
    Apply,
    /// Make DIR the release of the hosted application, without failing a request
    Deploy {
        /// The release; the configured `directory` is a link, and leads to it from now on
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// How long the way back stays open, such as 60s or 10m; 0s commits at once
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        probation: Option<Duration>,
        /// A release still in probation is taken back first
        #[arg(long)]
        supersede: bool,
        /// Come back when the release serves, or when it is final
        #[arg(long, value_name = "WHEN", value_enum, default_value_t = When::Takeover)]
        until: When,
    },
    /// Make the upgrade final now
    Commit,
    /// Go back to what ran before
    Rollback,
    /// Wait until an upgrade is final: exit 0 committed, 1 not, 75 not yet
    Wait {
        /// Of the upgrade, or its first digits [default: the one under way, or the last]
        #[arg(value_parser = upgrade_id)]
        id: Option<String>,
        /// Until this version serves for good, also by an upgrade that has not begun
        #[arg(long, value_name = "VERSION", conflicts_with = "id", value_parser = version_text)]
        version: Option<String>,
        /// How long, such as 5m; then exit 75
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// The services of this program on this host, and what they run
    List,
    /// Take the configuration anew
    Reload,
    /// Finish what is in flight and leave
    Stop,
    /// Who owns the service, and how it is
    Status {
        /// The document itself
        #[arg(long)]
        json: bool,
        /// Again whenever something happens
        #[arg(long)]
        watch: bool,
    },
    /// The upgrades there were
    History {
        /// The whole story of this one
        #[arg(value_parser = upgrade_id)]
        id: Option<String>,
        /// One JSON document a line
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum When {
    Takeover,
    Commit,
}

impl From<When> for Until {
    fn from(when: When) -> Self {
        match when {
            When::Takeover => Self::Takeover,
            When::Commit => Self::Commit,
        }
    }
}

impl Typed {
    pub(super) fn meaning(
        self,
        program: &Program,
        clap: &mut clap::Command,
        bare: bool,
    ) -> Result<Invocation, Told> {
        let usage = |clap: &mut clap::Command, what: &str| {
            Told::from(clap.error(ErrorKind::ArgumentConflict, what))
        };
        if self.version || self.build {
            return Err(Told(Saying::Version(version(program, self.build))));
        }
        let globals = Globals {
            name: self.name,
            runtime_dir: self.runtime_dir,
            state_dir: self.state_dir,
            config: self.config,
        };
        let command = match (self.verb, self.test, self.signal) {
            (Some(_), true, _) | (Some(_), _, Some(_)) => {
                return Err(usage(clap, "-t and -s take the place of a command"));
            }
            (Some(verb), false, None) => verb.meaning(),
            (None, true, _) => Command::Check { preflight: false },
            (None, false, Some(signal)) => Command::Ask(signal.meaning()),
            // nginx -c FILE starts it.
            (None, false, None) if globals.config.is_some() => Command::Run(Run::default()),
            (None, false, None) if program.bare == Bare::Run => Command::Run(Run::default()),
            (None, false, None) if bare => {
                return Err(Told(Saying::Help(clap.render_help())));
            }
            (None, false, None) => return Err(usage(clap, "a command is missing")),
        };
        match &command {
            Command::Run(Run { root: Some(_), .. }) if !program.site => {
                Err(usage(clap, "--root: this program serves no directory"))
            }
            Command::Run(run) if !program.site && run.hosts() => {
                Err(usage(clap, "--app: this program hosts no application"))
            }
            _ => Ok(Invocation {
                globals,
                command,
                own: None,
            }),
        }
    }
}

impl Verb {
    fn meaning(self) -> Command {
        Command::Ask(match self {
            Self::Run {
                listen,
                root,
                workers,
                app,
                command,
            } => {
                return Command::Run(Run {
                    listen,
                    root,
                    workers,
                    app,
                    command,
                });
            }
            Self::Check { preflight } => return Command::Check { preflight },
            Self::Cert { names, directory } => return Command::Cert(Cert { names, directory }),
            Self::Upgrade {
                binary,
                probation,
                hold,
                supersede,
                end_oldest,
                until,
            } => Ask::Upgrade(Upgrade {
                binary,
                order: UpgradeOrder {
                    id: None,
                    probation_ms: probation.map(millis),
                    hold,
                    supersede,
                    end_oldest,
                    release: None,
                    until: until.into(),
                },
            }),
            Self::Apply => Ask::Apply,
            Self::Deploy {
                directory,
                probation,
                supersede,
                until,
            } => Ask::Deploy(Deploy {
                directory,
                order: UpgradeOrder {
                    id: None,
                    probation_ms: probation.map(millis),
                    hold: false,
                    supersede,
                    end_oldest: false,
                    release: None,
                    until: until.into(),
                },
            }),
            Self::Commit => Ask::Commit,
            Self::Rollback => Ask::Rollback,
            Self::Wait {
                id,
                version,
                timeout,
            } => Ask::Wait(Wait {
                id,
                version,
                timeout,
            }),
            Self::List => Ask::List,
            Self::Reload => Ask::Reload,
            Self::Stop => Ask::Stop,
            Self::Status { json, watch } => Ask::Status { json, watch },
            Self::History { id, json } => Ask::History { id, json },
        })
    }
}

impl Signal {
    /// nginx's `stop` is fast and its `quit` graceful. Ours drain, both: what is in flight is cut
    /// after `drain.stop_timeout` and not before.
    fn meaning(self) -> Ask {
        match self {
            Self::Stop | Self::Quit => Ask::Stop,
            Self::Reload => Ask::Reload,
            Self::Reopen => Ask::Reopen,
        }
    }
}

/// nginx's words, so that scripts which cut the version out of them go on working.
fn version(program: &Program, build: bool) -> String {
    let Program { name, version, .. } = program;
    let said = format!("{name} version: {name}/{version}\n");
    if !build {
        return said;
    }
    let library = env!("CARGO_PKG_VERSION");
    let Protocol { major, minor } = PROTOCOL;
    format!(
        "{said}built on: handover {library}\n\
         protocol: {major}.{minor} (upgrades from and to any {major}.x)\n\
         configuration: /etc/{name}/{name}.toml, /etc/{name}/conf.d/*.toml\n"
    )
}

/// As a release calls itself.
fn version_text(text: &str) -> Result<String, &'static str> {
    let fits = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    fits.then(|| text.to_owned())
        .ok_or("a version has no blanks")
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

#[derive(Debug, thiserror::Error)]
enum Mistyped {
    #[error("expected a duration such as 90s, 10m or 1h")]
    Duration,
    #[error("expected \"auto\" or a number from 1 to 65535")]
    Workers,
    #[error("expected 4 to 32 hex digits")]
    UpgradeId,
    #[error(transparent)]
    Name(#[from] places::BadName),
}

fn duration(typed: &str) -> Result<Duration, Mistyped> {
    humantime::parse_duration(typed).map_err(|_| Mistyped::Duration)
}

fn workers(typed: &str) -> Result<Workers, Mistyped> {
    match typed.parse() {
        _ if typed == "auto" => Ok(Workers::Auto),
        Ok(n) if n > 0 => Ok(Workers::Count(n)),
        _ => Err(Mistyped::Workers),
    }
}

fn upgrade_id(typed: &str) -> Result<String, Mistyped> {
    let hex = (4..=32).contains(&typed.len()) && typed.bytes().all(|b| b.is_ascii_hexdigit());
    if hex {
        Ok(typed.to_ascii_lowercase())
    } else {
        Err(Mistyped::UpgradeId)
    }
}

fn name(typed: &str) -> Result<String, Mistyped> {
    places::check_name(typed)?;
    Ok(typed.to_owned())
}

const AFTER: &str = "\
Exit codes: 0 done or already so; 1 tried and failed, what ran before serves; 64 usage;
69 nothing is running; 75 refused now; 76 needs a restart; 77 not allowed; 78 configuration.";
const RUNTIME_HELP: &str = "Where its socket and pid files are \
    [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]";
const STATE_HELP: &str = "Where its history is \
    [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]";
