//! `stop`, which is done when every process has gone; and the signals of `-s`.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use tokio::time::{sleep, timeout};

use super::answerer::Answerer;
use super::connection::Trouble;
use super::orders::story;
use super::screen::{Screen, TICK};
use super::{Client, parked, verdict};
use crate::api::{Status, Verdict, exit};
use crate::sys::process::Other;

impl Client<'_> {
    /// `stop`. Nothing to stop is stopped already.
    pub(super) async fn stop(&self, screen: &mut Screen) -> Result<Verdict, Trouble> {
        let mut keeper = None;
        let mut processes = match self.control.status_and_who().await {
            Ok((status, who)) => {
                keeper = keeper_of(&status, &who);
                hold(&status, &who)
            }
            Err(Trouble::NotRunning { socket }) => {
                let message = format!("nothing is running at {}", socket.display());
                return Ok(verdict(exit::OK, message));
            }
            // Of another version perhaps, but it may understand this.
            Err(Trouble::NotOurs { .. }) => Vec::new(),
            Err(trouble) => return Err(trouble),
        };
        let told = match self.control.order("stop", Bytes::new()).await {
            Ok(lines) => story(lines, screen).await?,
            Err(Trouble::Ended { .. } | Trouble::NotRunning { .. }) => None,
            Err(trouble) => return Err(trouble),
        };
        if let Some(refused) = told.filter(|verdict| verdict.exit != exit::OK) {
            return Ok(refused);
        }
        for _ in 0..ROUNDS {
            all_gone(&processes, screen).await;
            // Whoever was started meanwhile, by the service itself, leaves as well.
            match self.control.status_and_who().await {
                Ok((status, who)) => processes = hold(&status, &who),
                Err(trouble @ Trouble::NoSocket { .. }) => return Err(trouble),
                Err(_) => return Ok(stopped(keeper).await),
            }
        }
        let message = format!(
            "it stopped, but was started again: see `{} status` and `systemctl status {}`",
            self.command, self.places.name
        );
        Ok(verdict(exit::FAILED, message))
    }

    /// `-s reopen`: `USR1` to the owner, which is the process that answers.
    pub(super) async fn reopen(&self) -> Result<Verdict, Trouble> {
        let (_, who) = self.control.status_and_who().await?;
        let Some(owner) = who.process() else {
            let message = "the service runs in another pid namespace: send SIGUSR1 from there";
            return Ok(verdict(exit::FAILED, message));
        };
        let pid = owner.pid();
        match owner.signal(Signal::SIGUSR1) {
            Ok(()) => Ok(verdict(
                exit::OK,
                format!("process {pid} reopens its log files"),
            )),
            Err(source) => Err(Trouble::Signal { pid, source }),
        }
    }
}

/// All masters and workers, by descriptor. What is no process of the service, or cannot be held, is not
/// waited for.
fn hold(status: &Status, who: &Answerer) -> Vec<Other> {
    let masters = status.masters.iter().flat_map(|master| {
        let workers = master.workers.iter().map(|worker| worker.pid);
        std::iter::once(master.pid).chain(workers)
    });
    let pids: BTreeSet<u32> = masters.chain([status.owner_pid]).collect();
    pids.into_iter()
        .filter_map(|pid| who.sibling(pid))
        .collect()
}

/// The process that was started where there is no systemd. As a container's first process it ends
/// everybody with it, whoever waits for it; above this client it may be waiting for us.
fn keeper_of(status: &Status, who: &Answerer) -> Option<Other> {
    let above = |pid| std::iter::successors(Some(pid), |pid| parked::parent(*pid));
    let keeper = above(status.owner_pid).find(|pid| is_keeper(*pid))?;
    let is_ours = above(std::process::id()).any(|pid| pid == keeper);
    who.sibling(keeper).filter(|_| !is_ours)
}

fn is_keeper(pid: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    pid != 1 && name.trim_end() == "keeper"
}

/// All masters and workers have gone. The keeper goes behind the last process of the service.
async fn stopped(keeper: Option<Other>) -> Verdict {
    let Some(keeper) = keeper else {
        return verdict(exit::OK, "stopped");
    };
    let gone = timeout(BEHIND, keeper.gone()).await.is_ok();
    let message = if gone {
        "stopped".to_owned()
    } else {
        format!(
            "stopped; process {}, which started it, waits for what an application left running",
            keeper.pid()
        )
    };
    verdict(exit::OK, message)
}

/// What an application leaves running has no limit.
const BEHIND: Duration = Duration::from_secs(5);

async fn all_gone(processes: &[Other], screen: &mut Screen) {
    if processes.is_empty() {
        return;
    }
    let number = processes.len();
    screen.wait_for(&format!("waiting for {number} processes to leave"));
    let all = join_all(processes.iter().map(Other::gone));
    tokio::pin!(all);
    loop {
        tokio::select! {
            _ = &mut all => return,
            () = sleep(TICK), if screen.is_live() => screen.tick(),
        }
    }
}

/// So often somebody new may appear: a successor that was just starting, and its workers.
const ROUNDS: usize = 3;
