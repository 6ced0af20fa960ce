//! `list`: the services of this program on this host (the instances of a template unit, say), found by
//! their control sockets.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Client;
use super::connection::Control;
use super::screen::Screen;
use crate::api::exit;
use crate::cli::args::Globals;
use crate::cli::places::Places;
use crate::cli::text::{self, Paint};

impl Client<'_> {
    /// Asks everybody who answers as a service of ours does.
    pub(super) async fn list(&self, screen: &mut Screen) -> u8 {
        let heading = [
            "NAME",
            "VERSION",
            "GENERATION",
            "PHASE",
            "PROCESS",
            "DIRECTORY",
        ];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        for runtime in self.directories() {
            let globals = Globals {
                name: name_of(&runtime),
                runtime_dir: Some(runtime.clone()),
                ..Globals::default()
            };
            let places = Places::resolve(&globals, &self.places.name, self.env);
            let control = Control::new(places, self.env.uid, self.patience);
            // Others have a socket of that name too, or had one.
            if let Ok(status) = control.status().await {
                rows.push(vec![
                    text::one_line(&status.name),
                    text::one_line(&status.version),
                    format!("g{}", status.generation),
                    text::one_line(&status.phase.to_string()),
                    status.owner_pid.to_string(),
                    runtime.display().to_string(),
                ]);
            }
        }
        if rows.len() == 1 {
            screen.say("no service of this program answers on this host");
        } else {
            screen.print(&text::table(&rows, Paint(screen.colour())));
        }
        exit::OK
    }

    /// Where a socket of ours is: below `/run`, the user's own directories (root: those of all users),
    /// and where the flags say.
    fn directories(&self) -> Vec<PathBuf> {
        let mut roots = vec![PathBuf::from("/run")];
        roots.extend(self.env.xdg_runtime_dir.clone());
        if self.env.uid == 0 {
            roots.extend(entries(Path::new("/run/user")));
        }
        let mut found: Vec<PathBuf> = roots
            .iter()
            .flat_map(|root| entries(root))
            .chain(of_users(Path::new("/tmp"), self.env.uid))
            .chain([self.places.runtime.clone()])
            .filter(|dir| dir.join("control.sock").exists())
            .collect();
        found.sort();
        found.dedup();
        found
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let all = fs::read_dir(dir).into_iter().flatten();
    all.filter_map(|entry| Some(entry.ok()?.path()))
}

/// Where users without a runtime directory have theirs, `NAME-UID`: ours, or for root everybody's. Anybody
/// may make such a directory, with another's number, too: who answers there is looked at.
fn of_users(tmp: &Path, us: u32) -> impl Iterator<Item = PathBuf> + use<> {
    let is_one = move |dir: &PathBuf| {
        let of = dir
            .to_str()
            .and_then(|name| name.rsplit_once('-')?.1.parse().ok());
        let owner = fs::symlink_metadata(dir).ok().filter(fs::Metadata::is_dir);
        let owner = owner.map(|meta| meta.uid());
        owner.is_some() && owner == of && (us == 0 || owner == Some(us))
    };
    entries(tmp).filter(is_one).take(MOST)
}

/// Each of them may keep us waiting.
const MOST: usize = 64;

fn name_of(runtime: &Path) -> Option<String> {
    Some(runtime.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_looks_into_the_directories_of_all_users() {
        let tmp = tempfile::tempdir().unwrap();
        let us = nix::unistd::geteuid().as_raw();
        let made = |name: String| {
            fs::create_dir(tmp.path().join(&name)).unwrap();
            tmp.path().join(name)
        };
        let ours = made(format!("web-{us}"));
        // Of another user's number, and of none.
        made(format!("web-{}", us + 1));
        made("web".into());
        fs::write(tmp.path().join(format!("file-{us}")), "").unwrap();
        let found = |us| of_users(tmp.path(), us).collect::<Vec<_>>();
        assert_eq!(found(us), [&*ours]);
        assert_eq!(found(0), [&*ours]);
        if us != 0 {
            assert!(found(us + 1).is_empty());
        }
    }
}
