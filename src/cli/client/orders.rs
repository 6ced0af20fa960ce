//! The orders: send one, tell its story, and find out what came of it when the story breaks off.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout};

use super::connection::{Lines, Trouble};
use super::follow::{Goal, Which};
use super::parked::Parked;
use super::screen::{Screen, TICK};
use super::{Client, verdict};
use crate::api::{Event, Phase, Status, Until, UpgradeOrder, Verdict, exit};
use crate::cli::args::Upgrade;

/// For the end of an upgrade that has been decided: its program is put right on the disk.
const WRITTEN_DOWN: Duration = Duration::from_secs(5);

/// What `apply` asks for is asked again so often while others are in the way.
const APPLIED: u32 = 4;

impl Client<'_> {
    /// `upgrade`.
    pub(super) async fn upgrade(
        &self,
        upgrade: &Upgrade,
        screen: &mut Screen,
    ) -> Result<Verdict, Trouble> {
        if let Some(file) = &upgrade.binary {
            let status = self.settled(screen).await?;
            let supersede = upgrade.order.supersede;
            let unwritten = status.upgrade.is_some() && !supersede;
            let unwritten =
                unwritten.then(|| "the end of the last upgrade is not on the disk yet".into());
            // The file would be in the way of what is under way.
            if let Some(why) = self.in_the_way(&status, supersede).or(unwritten) {
                let message = format!("{why}; {} was not put in place", file.display());
                return Ok(verdict(exit::REFUSED, message));
            }
            self.put_in_place(&status.disk.path, file)?;
        }
        self.place_upgrade("upgrade", upgrade.order.clone(), screen)
            .await
    }

    /// Why an upgrade would be refused now.
    pub(super) fn in_the_way(&self, status: &Status, supersede: bool) -> Option<String> {
        let under_way = status.upgrade.is_some();
        let command = &self.command;
        match status.phase.known() {
            _ if !under_way => None,
            // One that has been decided ends by itself.
            Some(Phase::Serving) => None,
            Some(Phase::Launching | Phase::Beside) => Some(format!(
                "another upgrade gets ready: `{command} wait` for it, or `{command} rollback` gives it up"
            )),
            _ if supersede => None,
            _ => Some(format!(
                "another upgrade is under way: `{command} commit` or `{command} rollback` first, or \
                 --supersede"
            )),
        }
    }

    /// The status, once an upgrade that has been decided is written down, too.
    pub(super) async fn settled(&self, screen: &mut Screen) -> Result<Status, Trouble> {
        let status = self.control.status().await?;
        let decided = status.phase == Phase::Serving;
        let Some(upgrade) = status.upgrade.as_ref().filter(|_| decided) else {
            return Ok(status);
        };
        let which = Which::Id(upgrade.id.clone());
        // What came of it is another client's business.
        let ended = self.follow(&which, Goal::End, true, screen);
        let _ = timeout(WRITTEN_DOWN, ended).await;
        self.control.status().await
    }

    /// `theirs` is what the service says. It is compared, and never written to.
    fn put_in_place(&self, theirs: &Path, file: &Path) -> Result<(), Trouble> {
        let ours = &self.installation.program;
        if !same_file(theirs, ours) {
            return Err(Trouble::OtherProgram {
                file: file.to_owned(),
                ours: ours.clone(),
                theirs: theirs.to_owned(),
            });
        }
        (self.installation.put)(file).map_err(|error| Trouble::Install {
            file: file.to_owned(),
            reason: error.to_string(),
        })
    }

    /// `apply`. A generation that gets ready may be what it asks for (`systemctl reload` was killed, and is
    /// given again): what becomes of that one is waited for. So is what ends by itself: the reload of another
    /// one may have read the configuration of before.
    pub(super) async fn apply(&self, screen: &mut Screen) -> Result<Verdict, Trouble> {
        let mut tries = 0;
        loop {
            let order = UpgradeOrder::default();
            let ordered = self.place_upgrade("apply", order, screen).await?;
            tries += 1;
            if ordered.exit != exit::REFUSED || tries == APPLIED {
                return Ok(ordered);
            }
            let status = self.control.status().await?;
            match (status.phase.known(), status.upgrade) {
                // Somebody else decides.
                (Some(Phase::Beside | Phase::Draining) | None, _) => return Ok(ordered),
                (Some(Phase::Launching), Some(upgrade)) => {
                    let which = Which::Id(upgrade.id);
                    let done = self.follow(&which, Goal::Takeover, true, screen).await?;
                    if done.exit != exit::OK {
                        return Ok(done);
                    }
                }
                _ => self.passes(&status.phase).await?,
            }
        }
    }

    pub(super) async fn place_upgrade(
        &self,
        verb: &str,
        order: UpgradeOrder,
        screen: &mut Screen,
    ) -> Result<Verdict, Trouble> {
        let order = UpgradeOrder {
            id: new_id(),
            ..order
        };
        let goal = match order.until {
            Until::Takeover => Goal::Takeover,
            Until::Commit => Goal::End,
        };
        let body = serde_json::to_vec(&order).expect("an order is plain data");
        let told = match self.control.order(verb, body.into()).await {
            Ok(lines) => story(lines, screen).await?,
            // It may have been taken all the same.
            Err(Trouble::Ended { .. }) => None,
            Err(trouble) => return Err(trouble),
        };
        match (told, order.id) {
            (Some(verdict), _) => Ok(verdict),
            (None, Some(id)) => {
                screen.complain(
                    "the connection ended before the answer: asking what came of the order",
                );
                self.follow(&Which::Id(id), goal, true, screen).await
            }
            (None, None) => Ok(self.not_told(verb)),
        }
    }

    /// `commit`.
    pub(super) async fn commit(&self, screen: &mut Screen) -> Result<Verdict, Trouble> {
        self.place("commit", screen).await
    }

    /// `reload`.
    pub(super) async fn reload(&self, screen: &mut Screen) -> Result<Verdict, Trouble> {
        let ordered = self.control.order("reload", Bytes::new()).await?;
        let told = story(ordered, screen).await?;
        Ok(told.unwrap_or_else(|| self.not_told("reload")))
    }

    /// `rollback`. An owner that hangs cannot be asked: the master parked behind it is told.
    pub(super) async fn rollback(&self, screen: &mut Screen) -> Result<Verdict, Trouble> {
        match self.place("rollback", screen).await {
            Err(silent @ (Trouble::Silent { .. } | Trouble::Unseen { .. })) => {
                self.wake_the_parked(silent, screen).await
            }
            other => other,
        }
    }

    /// An order about the upgrade under way, whose id only the owner knows.
    async fn place(&self, verb: &str, screen: &mut Screen) -> Result<Verdict, Trouble> {
        // Whole seconds: the owner may write down no more than that.
        let now = Timestamp::now();
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let told = match self.control.order(verb, Bytes::new()).await {
            Ok(lines) => story(lines, screen).await?,
            Err(Trouble::Ended { .. }) => None,
            Err(trouble) => return Err(trouble),
        };
        if let Some(verdict) = told {
            return Ok(verdict);
        }
        screen.complain("the connection ended before the answer: asking what came of the order");
        let which = Which::EndedSince(now);
        self.follow(&which, Goal::End, true, screen).await
    }

    async fn wake_the_parked(
        &self,
        silent: Trouble,
        screen: &mut Screen,
    ) -> Result<Verdict, Trouble> {
        let parked = match Parked::find(&self.places) {
            Ok(parked) => parked,
            Err(why) => {
                screen.complain(&format!(
                    "nobody else can be told to take the service back: {why}"
                ));
                return Err(silent);
            }
        };
        let pid = parked.pid();
        screen.complain(&format!(
            "{silent}: the parked master, process {pid}, is signalled to take the service back"
        ));
        parked
            .wake()
            .map_err(|source| Trouble::Signal { pid, source })?;
        let give_up = Instant::now() + self.patience.reclaim;
        loop {
            match self.control.status().await {
                Ok(status) if status.owner_pid == pid => {
                    let (generation, version) = (status.generation, status.version);
                    let message = format!("{version} (g{generation}, process {pid}) serves again");
                    return Ok(verdict(exit::OK, message));
                }
                _ if Instant::now() < give_up => sleep(self.patience.retry).await,
                _ => {
                    let message = format!(
                        "process {pid} was signalled but does not own the service yet: see \
                         `{} status` and the journal",
                        self.command
                    );
                    return Ok(verdict(exit::FAILED, message));
                }
            }
        }
    }

    fn not_told(&self, verb: &str) -> Verdict {
        let message = format!(
            "the connection ended before the {verb} was answered; what came of it is not known: \
             see `{} status`",
            self.command
        );
        verdict(exit::FAILED, message)
    }
}

/// Tells the steps; `None` when the connection ends without a verdict.
pub(super) async fn story(
    mut lines: Lines,
    screen: &mut Screen,
) -> Result<Option<Verdict>, Trouble> {
    loop {
        let event = tokio::select! {
            event = lines.next() => event?,
            () = sleep(TICK), if screen.is_live() => {
                screen.tick();
                continue;
            }
        };
        match event {
            None => return Ok(None),
            Some(Event::Result(verdict)) => return Ok(Some(verdict)),
            Some(step) => screen.step(&step),
        }
    }
}

/// Links may lead to it.
fn same_file(one: &Path, other: &Path) -> bool {
    let end = |path: &Path| path.canonicalize().ok();
    one == other || end(one).is_some_and(|one| Some(one) == end(other))
}

/// 32 hex digits that nobody else has. Without any, an order has no id: it can be given, but not
/// asked for later.
fn new_id() -> Option<String> {
    let mut bytes = [0; 16];
    let mut random = File::open("/dev/urandom").ok()?;
    random.read_exact(&mut bytes).ok()?;
    Some(format!("{:032x}", u128::from_ne_bytes(bytes)))
}
