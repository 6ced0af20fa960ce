//! `status`, once or for as long as somebody watches.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;

use super::Client;
use super::connection::{Lines, Trouble};
use super::screen::Screen;
use crate::api::{Status, exit};
use crate::cli::status::{Look, render};

impl Client<'_> {
    /// `status [--json]`.
    pub(super) async fn status(&self, json: bool, screen: &mut Screen) -> u8 {
        match self.picture(json, screen.colour()).await {
            Ok(picture) => {
                screen.print(&picture);
                exit::OK
            }
            Err(trouble) => self.explain(&trouble, screen),
        }
    }

    /// `status --watch`: on a terminal, over the last picture, with each event and each second; in
    /// a pipe, one picture after another, with each event. Ends when nobody reads.
    pub(super) async fn watch(&self, json: bool, screen: &mut Screen) -> u8 {
        let over = screen.is_live() && !json;
        let mut events: Option<Lines> = None;
        let mut shown = String::new();
        while !screen.is_gone() {
            if events.is_none() {
                events = self.control.events().await.ok();
            }
            let picture = match self.picture(json, screen.colour()).await {
                Ok(picture) => picture,
                Err(trouble) if json => return self.explain(&trouble, screen),
                Err(trouble) => format!("{trouble}\n"),
            };
            if over {
                screen.redraw(&picture);
            } else if picture != shown {
                let gap = if json || shown.is_empty() { "" } else { "\n" };
                screen.print(&format!("{gap}{picture}"));
                shown = picture;
            }
            tokio::select! {
                more = next(&mut events), if events.is_some() => if !more {
                    events = None;
                },
                () = sleep(SECOND), if over || events.is_none() => {}
            }
        }
        exit::OK
    }

    async fn picture(&self, json: bool, colour: bool) -> Result<String, Trouble> {
        if json {
            let document = self.control.status_document().await?;
            return Ok(format!("{}\n", document.trim_end()));
        }
        let status: Status = self.control.status().await?;
        let command = &self.command;
        Ok(render(&status, Timestamp::now(), Look { command, colour }))
    }
}

/// Whether there will be more.
async fn next(events: &mut Option<Lines>) -> bool {
    match events {
        Some(lines) => matches!(lines.next().await, Ok(Some(_))),
        None => false,
    }
}

const SECOND: Duration = Duration::from_secs(1);
