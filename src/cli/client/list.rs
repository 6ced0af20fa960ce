//! `list`: the services of this program on this host (the instances of a template unit, say), found by
//! their control sockets.

use std::fs;
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
                    text::one_line(&status.phase),
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

    /// Where a socket of ours is: below `/run`, the user's own directory, and where the flags say.
    fn directories(&self) -> Vec<PathBuf> {
        let mut roots = vec![PathBuf::from("/run")];
        roots.extend(self.env.xdg_runtime_dir.clone());
        let mut found: Vec<PathBuf> = roots
            .iter()
            .filter_map(|root| fs::read_dir(root).ok())
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .chain([self.places.runtime.clone()])
            .filter(|dir| dir.join("control.sock").exists())
            .collect();
        found.sort();
        found.dedup();
        found
    }
}

fn name_of(runtime: &Path) -> Option<String> {
    Some(runtime.file_name()?.to_str()?.to_owned())
}
