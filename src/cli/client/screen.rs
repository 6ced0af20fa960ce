//! What the client prints: steps and results on stdout, what failed on stderr; on a terminal with
//! colour and one live line.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::api::Event;
use crate::cli::text::{self, Paint, one_line};

/// Where the client prints to. A reader that has left is remembered, not an error.
pub struct Screen {
    program: String,
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    colour: bool,
    live: bool,
    /// What is on the live line, since when.
    waiting: Option<(String, Instant)>,
    gone: bool,
}

impl Screen {
    /// Stdout and stderr of this process. `plain`: no colour even on a terminal.
    #[must_use]
    pub fn standard(program: &str, plain: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        Self {
            live: terminal && !plain,
            colour: terminal && !plain,
            ..Self::to(program, Box::new(io::stdout()), Box::new(io::stderr()))
        }
    }

    /// Anywhere else, as into a pipe.
    #[must_use]
    pub fn to(program: &str, out: Box<dyn Write>, err: Box<dyn Write>) -> Self {
        Self {
            program: program.to_owned(),
            out,
            err,
            colour: false,
            live: false,
            waiting: None,
            gone: false,
        }
    }

    pub(super) fn colour(&self) -> bool {
        self.colour
    }

    /// Whether a line may be drawn over.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// Whether nobody reads any more.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// A line that somebody asked for.
    pub(super) fn say(&mut self, line: &str) {
        self.print(&format!("{line}\n"));
    }

    /// Text as it is.
    pub(super) fn print(&mut self, text: &str) {
        let clear = self.clear();
        self.write(&format!("{clear}{text}"));
        self.waiting = None;
    }

    /// A step of an order, as a line; what happens next stands on the live line.
    pub(super) fn step(&mut self, event: &Event) {
        let Event::Step {
            generation,
            message,
            ..
        } = event
        else {
            return;
        };
        let paint = Paint(self.colour);
        let message = one_line(message);
        let named = format!(" (g{generation}) ");
        self.say(&match message.split_once(&named) {
            // A master's own line names itself.
            Some((version, said)) => {
                format!(
                    "{} {said}",
                    paint.bold(&format!("{version}{}", named.trim_end()))
                )
            }
            None => message.clone(),
        });
        if self.live {
            self.waiting = Some((message, Instant::now()));
            self.tick();
        }
    }

    /// What is waited for: on the live line, or as a line.
    pub(super) fn wait_for(&mut self, what: &str) {
        if self.live {
            self.waiting = Some((what.to_owned(), Instant::now()));
            self.tick();
        } else {
            self.say(what);
        }
    }

    /// Time has passed: the live line says how long the step takes.
    pub(super) fn tick(&mut self) {
        let Some((what, since)) = &self.waiting else {
            return;
        };
        let paint = Paint(self.colour);
        let line = format!("{what} ... {}", text::duration(since.elapsed()));
        let clear = self.clear();
        self.write(&format!("{clear}{}", paint.dim(&line)));
    }

    /// The whole screen anew.
    pub(super) fn redraw(&mut self, text: &str) {
        // Home, each line cleared to its end, the rest cleared: no flicker.
        let text = text.replace('\n', "\x1b[K\n");
        self.write(&format!("\x1b[H{text}\x1b[J"));
    }

    /// What failed, in the program's name.
    pub(super) fn complain(&mut self, what: &str) {
        let clear = self.clear();
        self.write(clear);
        self.waiting = None;
        let paint = Paint(self.colour);
        let line = format!(
            "{} {}\n",
            paint.bad(&format!("{}:", self.program)),
            text::printable(what)
        );
        let _ = self.err.write_all(line.as_bytes());
    }

    fn clear(&self) -> &'static str {
        if self.waiting.is_some() {
            "\r\x1b[K"
        } else {
            ""
        }
    }

    fn write(&mut self, text: &str) {
        let written = self.out.write_all(text.as_bytes());
        if written.and_then(|()| self.out.flush()).is_err() {
            self.gone = true;
        }
    }
}

/// Between two ticks of a live line.
pub(super) const TICK: Duration = Duration::from_millis(100);
