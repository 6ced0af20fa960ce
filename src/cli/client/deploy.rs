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
        let status = self.settled(screen).await?;
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
        // A release that is superseded in its probation is nothing to go back to: what served before it
        // stays that.
        let superseded = status.phase != Phase::Serving
            && status.upgrade.is_some_and(|one| one.releases.is_some());
        // Nor is one that was refused while nobody could point the link back. What the service says is
        // compared, and never used as a path.
        let serving = self.serving().await;
        let serves = |one: &Option<PathBuf>| one.is_some() && *one == serving;
        let (before, stays) = if !superseded && serves(&now) {
            (now.clone(), false)
        } else {
            (
                kept_to.filter(|kept| superseded || serves(&Some(kept.clone()))),
                true,
            )
        };
        if now.as_ref() != Some(&directory) {
            let pointed = kept.and_then(|kept| {
                // For a `rollback` that must not ask the service where to go back to.
                match before.as_ref().filter(|_| !stays) {
                    // The name may be another user's, in a directory where only he may remove it.
                    Some(before) if link.is_link()? => kept.make(before).map_err(|e| {
                        io::Error::new(
                            e.kind(),
                            format!("{} cannot be made: {e}", kept.itself().display()),
                        )
                    })?,
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
        } else {
            // A connection that was lost says nothing about the upgrade: what serves does.
            let serving = self.serving().await.filter(|serving| *serving != directory);
            if let Some(serving) = serving {
                // Where the service could not do it itself. One in its probation may serve on.
                let led = now.as_deref().filter(|now| **now == *serving);
                let before = led.or(before.as_deref());
                point_back(&link, path, &directory, before, &serving, screen);
            }
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
    pub(super) async fn link_follows(&self, path: &Path, refused: &Path, screen: &mut Screen) {
        let Some(serving) = self.serving().await else {
            return;
        };
        let both = Link::find(path).and_then(|link| link.before().map(|kept| (link, kept)));
        match both {
            Ok((link, kept)) => {
                let before = kept.leads_to();
                point_back(&link, path, refused, before.as_deref(), &serving, screen);
            }
            Err(e) => screen.complain(&format!("cannot use {}: {e}", path.display())),
        }
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
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let directory = directory.display();
            let message = format!("{link} is not there: `ln -s {directory} {link}`, then `apply`");
            Some(verdict(exit::CONFIG, message))
        }
        Err(e) => {
            let message = format!("cannot point {link} to {}: {e}", directory.display());
            let exit = match e.kind() {
                io::ErrorKind::PermissionDenied => exit::DENIED,
                _ => exit::FAILED,
            };
            Some(verdict(exit, message))
        }
    }
}

/// From what was refused to what was there before, when that is what serves.
fn point_back(
    link: &Link,
    path: &Path,
    refused: &Path,
    before: Option<&Path>,
    serving: &Path,
    screen: &mut Screen,
) {
    if link.leads_to().is_none_or(|now| now != refused) || serving == refused {
        return;
    }
    let pointed = match before.filter(|before| *before == serving) {
        Some(before) => link.point(before).map(drop).map_err(|e| e.to_string()),
        None => Err("what led there before is not what serves".into()),
    };
    if let Err(why) = pointed {
        // Others choose the names of directories.
        let [refused, serving] = [refused, serving].map(|one| one_line(&one.to_string_lossy()));
        screen.complain(&format!(
            "{path} still leads to {refused}, which was given up ({why}); {serving} serves: point it there",
            path = path.display()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Said(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Said {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_link_that_is_missing_is_to_be_made() {
        let missing = Err(io::ErrorKind::NotFound.into());
        let (link, release) = (Path::new("/srv/current"), Path::new("/srv/2"));
        let refused = not_pointed(missing, link, release).expect("a verdict");
        assert_eq!(refused.exit, exit::CONFIG);
        let words = "/srv/current is not there: `ln -s /srv/2 /srv/current`, then `apply`";
        assert_eq!(refused.message, words);
    }

    /// What led there before may be older than what serves: `ln` and `apply` do not tell us.
    #[test]
    fn the_link_goes_back_to_what_serves_and_to_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
        for release in ["old", "serves", "refused"] {
            fs::create_dir(at(release)).unwrap();
        }
        symlink("refused", at("current")).unwrap();
        let link = Link::find(&at("current")).unwrap();
        let said = Said::default();
        let mut screen = Screen::to("handover", Box::new(io::sink()), Box::new(said.clone()));
        for before in [None, Some(at("old"))] {
            let path = at("current");
            let (refused, serves) = (at("refused"), at("serves"));
            point_back(
                &link,
                &path,
                &refused,
                before.as_deref(),
                &serves,
                &mut screen,
            );
            assert_eq!(link.leads_to(), Some(at("refused")));
            let complaint =
                String::from_utf8(std::mem::take(&mut *said.0.lock().unwrap())).unwrap();
            assert!(
                complaint.contains("/serves serves: point it there"),
                "{complaint}"
            );
        }
        let (path, refused, serves) = (at("current"), at("refused"), at("serves"));
        point_back(&link, &path, &refused, Some(&serves), &serves, &mut screen);
        assert_eq!(link.leads_to(), Some(at("serves")));
        // Somebody else's by now.
        point_back(
            &link,
            &path,
            &refused,
            Some(&at("old")),
            &at("old"),
            &mut screen,
        );
        assert_eq!(link.leads_to(), Some(at("serves")));
    }
}
