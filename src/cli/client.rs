//! The client of the control socket: what each [`Ask`] does, and the exit code that says what came
//! of it.
//!
//! It trusts nothing to stay as it was. A connection that ends without a verdict may be an owner
//! that died of the very upgrade it was asked for, so it is asked for by id at whoever answers next
//! (`follow`); an owner that does not answer within a second is gone round, by a signal to the
//! parked master (`parked`).
//!
//! Nor does it trust the answer: root types these commands, and what answers is run by the service's
//! user. It is seen who answers (`answerer`), no path and no process that an answer names is acted
//! on, and nothing that could command a terminal is printed (`connection`).

mod answerer;
mod connection;
mod deploy;
mod follow;
mod leave;
mod list;
mod orders;
mod parked;
pub(super) mod running;
mod screen;
mod watch;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::args::{Ask, Globals};
use super::history::{self, History, Journal};
use super::places::{Env, Places};
use crate::api::{self, Verdict, exit};
use crate::sys::runtime::block_on;
use crate::sys::signals::Signals;

use answerer::Unit;
use connection::{Control, Trouble};
pub use screen::Screen;

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a connection, and from there to the first byte of an answer.
    pub answer: Duration,
    /// For somebody to own the service again, once there was somebody.
    pub gap: Duration,
    /// For a new owner to learn of an order that was given to the one before it.
    pub learn: Duration,
    /// Between two tries to reach it meanwhile.
    pub retry: Duration,
    /// Between two looks at the status while following events, should one have been lost.
    pub look: Duration,
    /// For a parked master that was woken by a signal to own the service, and for an upgrade's end
    /// to be recorded.
    pub reclaim: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(1),
            gap: Duration::from_secs(10),
            learn: Duration::from_secs(2),
            retry: Duration::from_millis(50),
            look: Duration::from_secs(2),
            reclaim: Duration::from_secs(30),
        }
    }
}

/// Puts a file in place of the program.
pub type Put<'a> = dyn Fn(&Path) -> Result<(), Box<dyn Error>> + 'a;

/// The program that this client belongs to. `upgrade --binary` writes there and nowhere else,
/// whatever the service says that it runs.
pub struct Installation<'a> {
    /// Its path.
    pub program: PathBuf,
    /// Puts a file in its place.
    pub put: &'a Put<'a>,
}

/// Whom to talk to, and how.
pub struct Client<'a> {
    places: Places,
    env: &'a Env,
    /// What an operator types to reach this service.
    command: String,
    /// What starts it.
    start: String,
    patience: Patience,
    installation: Installation<'a>,
    /// `[app] directory`, of a service that hosts an application.
    link: Option<&'a Path>,
    control: Control,
}

/// What `deploy` needs.
const NO_APP: &str = "no configuration with `[app]` is here: `deploy` is for hosted applications";

impl<'a> Client<'a> {
    /// A client for the service that the flags and the environment name. `program` is what was
    /// typed (the last component of `argv[0]`), `default_name` the service it means by itself.
    #[must_use]
    pub fn new(
        program: &str,
        default_name: &str,
        globals: &Globals,
        env: &'a Env,
        installation: Installation<'a>,
    ) -> Self {
        let places = Places::find(globals, default_name, env, Path::exists);
        Self {
            command: command(program, globals),
            start: start(
                program,
                globals,
                &places.name,
                Unit::running(&places).is_some(),
            ),
            patience: Patience::default(),
            control: Control::new(places.clone(), env.uid, Patience::default()),
            places,
            env,
            installation,
            link: None,
        }
    }

    /// Of a service that hosts an application: `[app] directory`.
    #[must_use]
    pub fn link(mut self, link: Option<&'a Path>) -> Self {
        self.link = link;
        self
    }

    /// Other deadlines.
    #[must_use]
    pub fn patience(mut self, patience: Patience) -> Self {
        self.control = Control::new(self.places.clone(), self.env.uid, patience);
        self.patience = patience;
        self
    }

    /// Does it, on a small runtime of its own; the exit code.
    #[must_use]
    pub fn run(&self, ask: &Ask, screen: &mut Screen) -> u8 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => {
                let code = if ask.is_order() {
                    block_on(&runtime, self.perform_or_break_off(ask, screen))
                } else {
                    block_on(&runtime, self.perform(ask, screen))
                };
                // A question to systemd may still wait for its answer; nobody needs it any more.
                runtime.shutdown_background();
                code
            }
            Err(error) => {
                screen.complain(&format!("cannot start: {error}"));
                exit::FAILED
            }
        }
    }

    /// Ctrl-C ends this client and no order: it says so.
    async fn perform_or_break_off(&self, ask: &Ask, screen: &mut Screen) -> u8 {
        let interrupt = Signals::open(&[Signal::SIGINT]).ok();
        let broken_off = async {
            match interrupt {
                Some(mut interrupt) => drop(interrupt.next().await),
                None => std::future::pending().await,
            }
        };
        self.perform_until(broken_off, ask, screen).await
    }

    async fn perform_until(
        &self,
        broken_off: impl Future<Output = ()>,
        ask: &Ask,
        screen: &mut Screen,
    ) -> u8 {
        tokio::select! {
            biased;
            code = self.perform(ask, screen) => return code,
            () = broken_off => {}
        }
        let command = &self.command;
        screen.complain(&if !self.control.has_ordered() {
            "nothing was ordered".into()
        } else if matches!(ask, Ask::Upgrade(_) | Ask::Deploy(_)) {
            format!(
                "the order was given, and goes on: `{command} wait` follows it, `{command} rollback` \
                 gives it up"
            )
        } else {
            format!("the order was given, and goes on: `{command} status` says how far it is")
        });
        INTERRUPTED
    }

    /// What the service says of itself: `Ok(None)` when nothing runs, an error when that cannot be
    /// known.
    pub fn status_now(&self) -> Result<Option<api::Status>, Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let asked = block_on(&runtime, self.control.status());
        runtime.shutdown_background();
        match asked {
            Ok(status) => Ok(Some(status)),
            Err(Trouble::NotRunning { .. }) => Ok(None),
            Err(trouble) => Err(trouble.into()),
        }
    }

    /// As [`run`](Self::run), on the caller's runtime.
    pub async fn perform(&self, ask: &Ask, screen: &mut Screen) -> u8 {
        if let Ask::History { id, json } = ask {
            // It is asked for also when nobody answers.
            let status = match self.places.trusted(self.env.uid) {
                Ok(()) => self.control.status().await.ok(),
                Err(_) => None,
            };
            return self.history(id.as_deref(), *json, status.as_ref(), screen);
        }
        if let Err(error) = self.places.trusted(self.env.uid) {
            screen.complain(&error.to_string());
            return exit::DENIED;
        }
        let done = match ask {
            Ask::Upgrade(upgrade) => self.upgrade(upgrade, screen).await,
            Ask::Apply => self.apply(screen).await,
            Ask::Deploy(deploy) => match self.link {
                Some(link) => self.deploy(deploy, link, screen).await,
                None => Ok(verdict(exit::CONFIG, NO_APP)),
            },
            Ask::Commit => self.commit(screen).await,
            Ask::Rollback => {
                let refused = match self.link {
                    Some(_) => self.on_probation().await,
                    None => None,
                };
                let went = self.rollback(screen).await;
                let done = matches!(&went, Ok(Verdict { exit: exit::OK, .. }));
                if let (true, Some(link), Some(refused)) = (done, self.link, refused) {
                    self.link_follows(link, &refused, screen).await;
                }
                went
            }
            Ask::Reload => self.reload(screen).await,
            Ask::Reopen => self.reopen().await,
            Ask::Stop => self.stop(screen).await,
            Ask::Wait(wait) => self.wait(wait, screen).await,
            Ask::List => return self.list(screen).await,
            Ask::Status { json, watch: true } => return self.watch(*json, screen).await,
            Ask::Status { json, watch: false } => return self.status(*json, screen).await,
            Ask::History { .. } => unreachable!("answered above"),
        };
        match done {
            Ok(verdict) => tell(&verdict, screen),
            Err(trouble) => self.explain(&trouble, screen),
        }
    }

    fn history(
        &self,
        id: Option<&str>,
        json: bool,
        status: Option<&api::Status>,
        screen: &mut Screen,
    ) -> u8 {
        let path = self.places.history();
        let mut history = match History::read(&path) {
            Ok(history) => history,
            Err(error) => {
                screen.complain(&error.to_string());
                return error.exit();
            }
        };
        if history.unreadable > 0 {
            let (n, path) = (history.unreadable, path.display());
            screen.complain(&format!(
                "{n} lines of {path} cannot be read and are left out"
            ));
        }
        if let Some(last) = status.and_then(|status| status.last.as_ref()) {
            history.learn(last);
        }
        let under_way = status.and_then(|status| status.upgrade.as_ref());
        match id {
            Some(id) => self.one_upgrade(id, &history, json, screen),
            None if json => {
                screen.print(&history.lines());
                exit::OK
            }
            None if history.upgrades.is_empty() && under_way.is_none() => {
                screen.say(&format!("no upgrade is recorded in {}", path.display()));
                exit::OK
            }
            None => {
                screen.print(&history.table(under_way, screen.colour()));
                exit::OK
            }
        }
    }

    fn one_upgrade(&self, id: &str, history: &History, json: bool, screen: &mut Screen) -> u8 {
        let known = history.find(id);
        match known {
            Some((line, _)) if json => {
                screen.say(line);
                return exit::OK;
            }
            Some((_, last)) => screen.print(&history::story(last)),
            // One that is under way has no line yet, but the journal may know it.
            None if id.len() == WHOLE_ID && !json => {}
            None => {
                let path = self.places.history();
                screen.complain(&format!(
                    "no upgrade {id} is recorded in {}",
                    path.display()
                ));
                return exit::FAILED;
            }
        }
        let whole = known.map_or(id, |(_, last)| &last.id);
        let why = match history::journal(Path::new("journalctl"), whole) {
            Journal::Story(story) => {
                screen.say("");
                screen.print(&story);
                return exit::OK;
            }
            Journal::Nothing => {
                "the journal has nothing of it, or shows you nothing: root and members of \
                 systemd-journal may read it"
            }
            Journal::Missing => "there is no journalctl here",
        };
        if known.is_some() {
            screen.complain(&format!("this is what the history file knows; {why}"));
            exit::OK
        } else {
            let path = self.places.history();
            screen.complain(&format!(
                "no upgrade {id} is recorded in {}; {why}",
                path.display()
            ));
            exit::FAILED
        }
    }

    /// Trouble in words: what is wrong, with which path and process, and what to do.
    fn explain(&self, trouble: &Trouble, screen: &mut Screen) -> u8 {
        let text = match trouble {
            Trouble::NotRunning { socket } => format!(
                "nothing is running at {}: start it with {}",
                socket.display(),
                self.start,
            ),
            Trouble::Silent { .. } => self.silent(trouble),
            Trouble::Unseen { .. } => match running::by_pid_file(&self.places) {
                Some(running) => {
                    format!(
                        "{trouble}; {running} and may serve all the same: ask again in some seconds"
                    )
                }
                None => format!(
                    "{trouble}: should nobody serve, start it with {}",
                    self.start
                ),
            },
            trouble => trouble.to_string(),
        };
        screen.complain(&text);
        trouble.exit()
    }

    fn silent(&self, trouble: &Trouble) -> String {
        let pid_file = self.places.pid_file();
        let files = [self.places.old_pid_file(), pid_file.clone()];
        if let [Some((owner, before)), Some((newest, after))] = files.map(|f| running::master(&f)) {
            if before == "beside" && after == "standby" {
                return format!(
                    "{trouble}: process {owner} hangs or is stopped, and process {newest} accepts beside \
                     it: `kill -9 {owner}` leaves the service to that one"
                );
            }
        }
        let owner = match parked::read_pid(&pid_file) {
            Some(pid) => format!(
                "process {pid} (from {}) hangs or is stopped",
                pid_file.display()
            ),
            None => format!("{} names no process", pid_file.display()),
        };
        let advice = match parked::Parked::find(&self.places) {
            Ok(parked) => format!(
                "`{} rollback` tells its predecessor, process {}, to take the service back",
                self.command,
                parked.pid()
            ),
            Err(_) => format!(
                "no predecessor is parked; `systemctl restart {}` starts it anew (clients wait, none is refused)",
                self.places.name
            ),
        };
        format!("{trouble}: {owner}; {advice}")
    }
}

fn tell(verdict: &Verdict, screen: &mut Screen) -> u8 {
    if verdict.exit == exit::OK {
        screen.say(&verdict.message);
    } else {
        screen.complain(&verdict.message);
    }
    verdict.exit
}

fn verdict(exit: u8, message: impl Into<String>) -> Verdict {
    Verdict {
        exit,
        message: message.into(),
        id: None,
    }
}

/// "handover", or "handover --name blue".
fn command(program: &str, globals: &Globals) -> String {
    let dir = |dir: &Option<PathBuf>| dir.as_ref().map(|dir| dir.display().to_string());
    let flags = [
        ("--name", globals.name.clone()),
        ("--runtime-dir", dir(&globals.runtime_dir)),
    ];
    let mut command = program.to_owned();
    for (flag, value) in flags {
        if let Some(value) = value {
            command = format!("{command} {flag} {value}");
        }
    }
    command
}

/// What starts the service that was asked for: who names a file means that one, who names another
/// directory than the unit's no unit.
fn start(program: &str, globals: &Globals, name: &str, has_unit: bool) -> String {
    match &globals.config {
        Some(config) => format!("`{program} run --config {}`", config.display()),
        None if globals.runtime_dir.is_some() && !has_unit => {
            format!("`{} run`", command(program, globals))
        }
        None => format!(
            "`systemctl start {name}` or `{} run`",
            command(program, globals)
        ),
    }
}

/// As shells tell of a program that SIGINT ended.
const INTERRUPTED: u8 = 128 + 2;

const WHOLE_ID: usize = 32;

#[cfg(test)]
mod tests;
