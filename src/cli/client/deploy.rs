//! `deploy`: the link leads to the release, with the rights of who typed it; then an upgrade. No order
//! carries a path, and no path is taken from an answer: the link is the one in the configuration.

use std::path::{Path, PathBuf};

use super::connection::Trouble;
use super::screen::Screen;
use super::{Client, verdict};
use crate::api::{UpgradeOrder, Verdict, exit};
use crate::cli::args::Deploy;
use crate::sys::release;

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
        let status = self.control.status().await?;
        // It would be refused, and the link would be in the way of what is under way.
        if status.upgrade.is_some() && !deploy.order.supersede {
            let message = format!(
                "another upgrade is under way: `{command} commit` or `{command} rollback` first, or \
                 --supersede",
                command = self.command
            );
            return Ok(verdict(exit::REFUSED, message));
        }
        // Two at a time would point the link away from each other's release.
        let parent = std::fs::File::open(link.parent().unwrap_or(Path::new("/")));
        let alone = parent.as_ref().map(|parent| {
            rustix::fs::flock(parent, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        });
        if let Ok(Err(rustix::io::Errno::WOULDBLOCK)) = alone {
            let message = format!("another `deploy` of {} is under way", link.display());
            return Ok(verdict(exit::REFUSED, message));
        }
        let now = link.canonicalize().ok();
        // A release that is superseded in its probation is nothing to go back to: what served before it
        // stays that.
        let superseded = status.upgrade.is_some_and(|one| one.releases.is_some());
        let before = if superseded {
            release::before(link).canonicalize().ok()
        } else {
            now.clone()
        };
        if now.as_ref() != Some(&directory) {
            // For a `rollback` that must not ask the service where to go back to.
            let kept = before.as_ref().filter(|_| link.is_symlink() && !superseded);
            let kept = kept.map_or(Ok(()), |before| {
                release::make_link(&release::before(link), before)
            });
            match kept.and_then(|()| release::point(link, &directory)) {
                Ok(true) => {}
                Ok(false) => {
                    let message = format!(
                        "{} is not a link: `deploy` needs one that leads to the release; `apply` runs \
                         what is in the directory now",
                        link.display()
                    );
                    return Ok(verdict(exit::CONFIG, message));
                }
                Err(e) => {
                    let message = format!(
                        "cannot point {} to {}: {e}",
                        link.display(),
                        directory.display()
                    );
                    return Ok(verdict(exit::FAILED, message));
                }
            }
        }
        let order = UpgradeOrder {
            release: Some(directory.clone()),
            ..deploy.order.clone()
        };
        let ordered = self.place_upgrade("upgrade", order, screen).await;
        let done = matches!(&ordered, Ok(Verdict { exit: exit::OK, .. }));
        if done {
            self.old_releases(screen).await?;
        } else if self.serving().await.as_ref() != Some(&directory) {
            // A connection that was lost says nothing about the upgrade: what serves does.
            // Where the service could not do it itself.
            Self::point_back(link, &directory, before.as_deref(), screen);
        }
        ordered
    }

    fn point_back(link: &Path, refused: &Path, before: Option<&Path>, screen: &mut Screen) {
        let still = link.canonicalize().is_ok_and(|now| now == refused);
        let Some(before) = before.filter(|before| still && *before != refused) else {
            return;
        };
        if let Err(e) = release::point(link, before) {
            screen.complain(&format!(
                "{} still leads to {}: {e}",
                link.display(),
                refused.display()
            ));
        }
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
    pub(super) fn link_follows(link: &Path, refused: &Path, screen: &mut Screen) {
        if let Ok(before) = release::before(link).canonicalize() {
            Self::point_back(link, refused, Some(&before), screen);
        }
    }
}
