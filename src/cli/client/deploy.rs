//! `deploy`: the link leads to the release, with the rights of who typed it; then an upgrade. No order
//! carries a path, and no path is taken from an answer: the link is the one in the configuration.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::connection::Trouble;
use super::follow::{Goal, Which};
use super::screen::Screen;
use super::{Client, verdict};
use crate::api::{Phase, Until, UpgradeOrder, Verdict, exit};
use crate::cli::args::Deploy;
use crate::cli::text::one_line;
use crate::sys::link::{Link, Lock};

impl Client<'_> {
    /// `deploy`. `link` is `[app] directory`.
    pub(super) async fn deploy(
        &self,
        deploy: &Deploy,
        link: &Path,
        screen: &mut Screen,
    ) -> Result<Verdict, Trouble> {
        let directory = match deploy.directory.canonicalize() {
            Ok(directory) if directory.is_dir() => directory,
            Ok(file) => {
                let message = format!("{} is not a directory", file.display());
                return Ok(verdict(exit::USAGE, message));
            }
            Err(e) => {
                let message = format!("cannot deploy {}: {e}", deploy.directory.display());
                return Ok(verdict(exit::USAGE, message));
            }
        };
        let status = self.settled().await?;
        // The link would be in the way of what is under way.
        if let Some(why) = self.in_the_way(&status, deploy.order.supersede) {
            return Ok(verdict(exit::REFUSED, why));
        }
        let path = link;
        let link = match Link::find(path) {
            Ok(link) => link,
            Err(e) => {
                let message = format!("cannot use {}: {e}", path.display());
                return Ok(verdict(exit::CONFIG, message));
            }
        };
        let mut lock = match lock(&link, path) {
            Ok(lock) => lock,
            Err(message) => return Ok(verdict(exit::REFUSED, message)),
        };
        let now = link.leads_to();
        let kept = link.before();
        let kept_to = kept.as_ref().ok().and_then(Link::leads_to);
        // A release that is superseded in its probation is nothing to go back to, nor is one that was
        // refused while nobody could point the link back: what served before it stays that.
        let superseded = Phase::named(&status.phase) != Some(Phase::Serving)
            && status.upgrade.is_some_and(|one| one.releases.is_some());
        let serving = self.serving().await;
        let stays = superseded || serving != now && serving.is_some() && serving == kept_to;
        let before = if stays { kept_to } else { now.clone() };
        if now.as_ref() != Some(&directory) {
            let pointed = kept.and_then(|kept| {
                // For a `rollback` that must not ask the service where to go back to.
                match before.as_ref().filter(|_| !stays) {
                    Some(before) if link.is_link()? => kept.make(before)?,
                    _ => {}
                }
                link.point(&directory)
            });
            if let Some(refused) = not_pointed(pointed, path, &directory) {
                return Ok(refused);
            }
        }
        let order = UpgradeOrder {
            release: Some(directory.clone()),
            until: Until::Takeover,
            ..deploy.order.clone()
        };
        let mut ordered = self.place_upgrade("upgrade", order, screen).await;
        if let (Ok(done), Until::Commit) = (&ordered, deploy.order.until) {
            if let Some(id) = self.begun(done).await {
                // `deploy --supersede` is a way out of a probation.
                lock = None;
                ordered = self.follow(&Which::Id(id), Goal::End, true, screen).await;
            }
        }
        let done = matches!(&ordered, Ok(Verdict { exit: exit::OK, .. }));
        if done {
            if let Some(before) = before.filter(|before| *before != directory) {
                // Others choose the names of directories.
                let [from, to] = [&before, &directory].map(|one| one_line(&one.to_string_lossy()));
                screen.say(&format!("release {from} -> {to}"));
            }
            self.old_releases(screen).await?;
        } else if self.serving().await.as_ref() != Some(&directory) {
            // A connection that was lost says nothing about the upgrade: what serves does.
            // Where the service could not do it itself.
            point_back(&link, &directory, before.as_deref())
                .unwrap_or_else(|e| still_leads(path, &directory, &e, screen));
        }
        drop(lock);
        ordered
    }

    /// The upgrade that an order has begun; `None`: there was nothing to do.
    async fn begun(&self, done: &Verdict) -> Option<String> {
        let id = done.id.clone().filter(|_| done.exit == exit::OK)?;
        let known = self.control.status().await.map_or(true, |status| {
            status.upgrade.is_some_and(|one| one.id == id)
                || status.last.is_some_and(|last| last.id == id)
        });
        known.then_some(id)
    }

    /// Names what nothing needs any more. What the service says is printed, and no more: whoever types
    /// this may be root, and removes it himself.
    async fn old_releases(&self, screen: &mut Screen) -> Result<(), Trouble> {
        for path in self.control.status().await?.old_releases {
            screen.say(&format!(
                "{} is not needed any more ([app] keep)",
                path.display()
            ));
        }
        Ok(())
    }

    /// The release that the owner runs.
    async fn serving(&self) -> Option<PathBuf> {
        let status = self.control.status().await.ok()?;
        let owner = status
            .masters
            .into_iter()
            .find(|one| one.pid == status.owner_pid);
        Some(owner?.app?.release)
    }

    /// The release that a rollback would take back; `None`: it is about no release.
    pub(super) async fn on_probation(&self) -> Option<PathBuf> {
        let status = self.control.status().await.ok()?;
        Some(status.upgrade?.releases?.to)
    }

    /// After a rollback from `refused`: the link follows what serves, where the service could not do it
    /// itself. It goes to where `deploy` found it, not to where an answer says.
    pub(super) fn link_follows(path: &Path, refused: &Path, screen: &mut Screen) {
        let done = Link::find(path).and_then(|link| {
            let before = link.before()?.leads_to();
            point_back(&link, refused, before.as_deref())
        });
        done.unwrap_or_else(|e| still_leads(path, refused, &e, screen));
    }
}

/// Two at a time would point the link away from each other's release. Who cannot write the link's directory
/// has no lock, and is told when there is something to be written.
fn lock(link: &Link, path: &Path) -> Result<Option<Lock>, String> {
    match link.lock() {
        Ok(Some(lock)) => Ok(Some(lock)),
        Ok(None) => Err(format!(
            "another `deploy` of {} is under way",
            path.display()
        )),
        Err(e) if link.can_be_written() => {
            let why = match Errno::from_io_error(&e) {
                Some(Errno::ACCESS) => {
                    "; another user's `deploy` is under way, or was killed and left it"
                }
                _ => "",
            };
            let file = link.lock_file();
            Err(format!("cannot use {}: {e}{why}", file.display()))
        }
        Err(_) => Ok(None),
    }
}

fn not_pointed(pointed: io::Result<bool>, link: &Path, directory: &Path) -> Option<Verdict> {
    let link = link.display();
    match pointed {
        Ok(true) => None,
        Ok(false) => {
            let message = format!(
                "{link} is not a link: `deploy` needs one that leads to the release; `apply` runs what is \
                 in the directory now"
            );
            Some(verdict(exit::CONFIG, message))
        }
        Err(e) => {
            let message = format!("cannot point {link} to {}: {e}", directory.display());
            Some(verdict(exit::FAILED, message))
        }
    }
}

fn point_back(link: &Link, refused: &Path, before: Option<&Path>) -> io::Result<()> {
    let still = link.leads_to().is_some_and(|now| now == refused);
    match before.filter(|before| still && *before != refused) {
        Some(before) => link.point(before).map(drop),
        None => Ok(()),
    }
}

fn still_leads(link: &Path, refused: &Path, error: &io::Error, screen: &mut Screen) {
    let (link, refused) = (link.display(), refused.display());
    screen.complain(&format!("{link} may still lead to {refused}: {error}"));
}
