//! The log: natively to journald when stderr is the journal, else lines on stderr.
//!
//! Callers use `tracing`'s macros. In the journal a field is found by its name in capitals
//! (`handover_upgrade_id` is `HANDOVER_UPGRADE_ID`, `message_id` is `MESSAGE_ID`), so a field must
//! not be called like one of journald's own (`priority`, `unit`). In a line it is `upgrade_id=…`:
//!
//! ```text
//! 2026-11-22T15:36:01.123Z info g7 took over upgrade_id=5c0f… reason="health check failed"
//! ```
//!
//! Access logs never come here.

use std::fmt::{self, Write};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;

use super::inherited::own_name;

/// Libraries that tell every frame at `debug`: they say as much as at `info` until `trace`.
const TALKATIVE: &[&str] = &[
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "tokio",
    "tower",
    "tower_http",
];

/// The generation in every line; 0 while it is not known.
static GENERATION: AtomicU64 = AtomicU64::new(0);

static CONTROL: OnceLock<Control> = OnceLock::new();

/// Why there is no log, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Not a level.
    #[error(
        "cannot use log level {level:?}: expected \"error\", \"warn\", \"info\", \"debug\" or \
         \"trace\""
    )]
    Level {
        /// What was written.
        level: String,
    },
    /// There is one already, ours or the application's.
    #[error("a tracing subscriber is already installed in this process")]
    Installed,
}

/// What can still be changed.
struct Control {
    level: Box<dyn Fn(Targets) + Send + Sync>,
    journald: Option<Box<dyn Fn(tracing_journald::Layer) + Send + Sync>>,
}

/// Starts the log of this process. With `journal` (stderr is the journal:
/// [`Inherited::journal_stream`](super::inherited::Inherited::journal_stream)) events go to journald
/// as fields; where its socket cannot be reached, as lines with the priority in front.
pub fn init(journal: bool, level: &str) -> Result<(), JournalError> {
    targets(level)?;
    let (layer, control) = build(journal, level);
    let installed =
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
    installed.map_err(|_| JournalError::Installed)?;
    CONTROL.set(control).map_err(|_| JournalError::Installed)
}

/// The same beside other layers of a program's own. [`set_level`] and [`set_generation`] move it.
pub fn layer<S>(journal: bool, level: &str) -> impl Layer<S> + Send + Sync + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let (layer, control) = build(journal, level);
    // A second one stays as it is.
    let _ = CONTROL.set(control);
    layer
}

fn build<S>(journal: bool, level: &str) -> (impl Layer<S> + Send + Sync + use<S>, Control)
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let (filter, handle) = reload::Layer::new(targets(level).unwrap_or_default());
    let level = move |targets| {
        // It fails only when the subscriber is gone, and with it the log.
        let _ = handle.reload(targets);
    };
    let native = if journal { journald(0).ok() } else { None };
    let (layer, journald): (Box<dyn Layer<S> + Send + Sync>, _) = match native {
        Some(layer) => {
            let (layer, handle) = reload::Layer::new(layer);
            let change = move |layer| drop(handle.reload(layer));
            (Box::new(layer), Some(Box::new(change) as _))
        }
        None => (Box::new(lines(journal, io::stderr)), None),
    };
    let control = Control {
        level: Box::new(level),
        journald,
    };
    (layer.with_filter(filter), control)
}

/// Changes how much is logged, from now on.
pub fn set_level(level: &str) -> Result<(), JournalError> {
    let targets = targets(level)?;
    if let Some(control) = CONTROL.get() {
        (control.level)(targets);
    }
    Ok(())
}

/// Says whose log this is: `g7` in every line, `HANDOVER_GENERATION=7` in every entry.
pub fn set_generation(generation: u64) {
    GENERATION.store(generation, Ordering::Relaxed);
    let handle = CONTROL.get().and_then(|control| control.journald.as_ref());
    if let (Some(handle), Ok(layer)) = (handle, journald(generation)) {
        handle(layer);
    }
}

/// Fails when nothing listens on journald's socket.
fn journald(generation: u64) -> io::Result<tracing_journald::Layer> {
    let layer = tracing_journald::layer()?
        .with_field_prefix(None)
        .with_syslog_identifier(own_name());
    if generation == 0 {
        return Ok(layer);
    }
    Ok(layer.with_custom_fields([("HANDOVER_GENERATION", generation.to_string())]))
}

fn lines<S, W>(journal: bool, to: W) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .event_format(Lines { journal })
        .fmt_fields(Fields)
        .log_internal_errors(false)
        .with_writer(to)
}

fn targets(level: &str) -> Result<Targets, JournalError> {
    let level = match level {
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => {
            return Err(JournalError::Level {
                level: level.into(),
            });
        }
    };
    // Not ours to judge: what a hosted application prints.
    let targets = Targets::new()
        .with_default(level)
        .with_target("app", LevelFilter::INFO);
    Ok(match level {
        // It warns of what a client sends: a line for every few bytes, if the client wants it so.
        LevelFilter::WARN | LevelFilter::INFO => targets.with_target("h2", LevelFilter::ERROR),
        LevelFilter::DEBUG => {
            targets.with_targets(TALKATIVE.iter().map(|name| (*name, LevelFilter::INFO)))
        }
        _ => targets,
    })
}

/// One event a line.
struct Lines {
    /// The reader knows the time and wants a priority.
    journal: bool,
}

/// `key=value`, for spans as for events.
struct Fields;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (priority, level) = words(*event.metadata().level());
        if self.journal {
            write!(to, "<{priority}>")?;
        } else {
            write!(to, "{:.3} {level} ", jiff::Timestamp::now())?;
        }
        let generation = GENERATION.load(Ordering::Relaxed);
        if generation != 0 {
            write!(to, "g{generation} ")?;
        }
        let mut text = Text::default();
        event.record(&mut text);
        to.write_str(&text.message)?;
        to.write_str(&text.fields)?;
        for span in context.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                to.write_str(fields)?;
            }
        }
        writeln!(to)
    }
}

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: tracing_subscriber::field::RecordFields>(
        &self,
        mut to: Writer<'w>,
        fields: R,
    ) -> fmt::Result {
        let mut text = Text::default();
        fields.record(&mut text);
        to.write_str(&text.fields)
    }
}

/// journald's priority (as `tracing-journald` maps it) and our word.
fn words(level: Level) -> (u8, &'static str) {
    match level {
        Level::ERROR => (3, "error"),
        Level::WARN => (4, "warn"),
        Level::INFO => (5, "info"),
        Level::DEBUG => (6, "debug"),
        Level::TRACE => (7, "trace"),
    }
}

/// The message, and ` key=value` for each other field.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn put(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => escape(&mut self.message, value),
            // For the journal's catalogue.
            "message_id" => {}
            name => {
                let name = name.strip_prefix("handover_").unwrap_or(name);
                let _ = write!(self.fields, " {name}=");
                let plain = !value.is_empty()
                    && !value
                        .chars()
                        .any(|c| c.is_whitespace() || c.is_control() || c == '"');
                if plain {
                    self.fields.push_str(value);
                } else {
                    let _ = write!(self.fields, "{value:?}");
                }
            }
        }
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }
}

/// A line is one event, whatever a client made us write.
fn escape(to: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            to.extend(c.escape_default());
        } else {
            to.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Stdio;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::sys::helper;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(journal: bool, level: &str, log: impl FnOnce()) -> String {
        let to = Written::default();
        let writer = to.clone();
        let filtered = tracing_subscriber::registry().with(targets(level).unwrap());
        let subscriber = filtered.with(lines(journal, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, log);
        let bytes = to.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn fields_follow_the_message_and_spans_follow_the_fields() {
        let text = written(true, "info", || {
            let span = tracing::info_span!("upgrade", handover_upgrade_id = "5c0f");
            let _entered = span.enter();
            tracing::warn!(
                message_id = "0123",
                from = ?"Serving",
                handover_reason = "health check failed",
                count = 3,
                empty = "",
                "took {}",
                "over"
            );
        });
        assert_eq!(
            text,
            "<4>took over from=\"\\\"Serving\\\"\" reason=\"health check failed\" count=3 \
             empty=\"\" upgrade_id=5c0f\n"
        );
    }

    #[test]
    fn nothing_that_is_logged_begins_a_line_of_its_own() {
        let text = written(true, "info", || {
            tracing::error!(path = "/a\n<0>forged", "GET /\n<0>forged\x1b[2J");
        });
        assert_eq!(
            text,
            "<3>GET /\\n<0>forged\\u{1b}[2J path=\"/a\\n<0>forged\"\n"
        );
    }

    #[test]
    fn without_the_journal_a_line_has_time_and_level() {
        let text = written(false, "info", || tracing::info!("ready"));
        let (time, rest) = text.split_once(' ').unwrap();
        let time: jiff::Timestamp = time.parse().unwrap();
        assert!(time.duration_until(jiff::Timestamp::now()).as_secs() < 60);
        assert_eq!(text.find('.'), Some(19), "milliseconds in {text}");
        assert_eq!(rest, "info ready\n");
    }

    #[test]
    fn levels_are_words_and_keep_libraries_quiet() {
        let log = || {
            tracing::debug!("ours");
            tracing::debug!(target: "hyper::proto", "head");
            tracing::info!(target: "hyper::proto", "rare");
            tracing::warn!(target: "h2::proto", "a client's doing");
        };
        assert_eq!(written(true, "warn", log), "");
        assert_eq!(written(true, "info", log), "<5>rare\n");
        let doing = "<4>a client's doing\n";
        assert_eq!(
            written(true, "debug", log),
            format!("<6>ours\n<5>rare\n{doing}")
        );
        assert_eq!(
            written(true, "trace", log),
            format!("<6>ours\n<6>head\n<5>rare\n{doing}")
        );
        for level in ["", "INFO", "off", "5", "info,h2=debug"] {
            let error = targets(level).err().unwrap().to_string();
            assert!(error.contains("expected \"error\""), "{error}");
        }
    }

    /// In a process of its own: the log is the process's.
    #[test]
    #[ignore = "run by the next test"]
    fn logs() {
        if !helper::is_helper() {
            return;
        }
        init(false, "info").unwrap();
        tracing::info!("one");
        tracing::debug!("two");
        set_level("debug").unwrap();
        set_generation(7);
        tracing::debug!("three");
        set_level("error").unwrap();
        tracing::warn!("four");
        set_level("loud").unwrap_err();
        tracing::error!("five");
        assert!(matches!(init(false, "info"), Err(JournalError::Installed)));
    }

    #[test]
    fn level_and_generation_change_while_it_runs() {
        let mut child = helper::command("", "sys::journal::tests::logs")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = String::new();
        let mut stderr = child.stderr.take().unwrap();
        stderr.read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success(), "{text}");
        let lines: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(_time, rest)| rest)
            .collect();
        assert_eq!(lines, ["info one", "debug g7 three", "error g7 five"]);
    }

    /// In a mount namespace of its own, where it is journald.
    #[test]
    #[ignore = "run by the next test"]
    fn logs_natively() {
        if !helper::is_helper() {
            return;
        }
        let socket = std::os::unix::net::UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
        init(true, "info").unwrap();
        set_generation(7);
        tracing::warn!(
            handover_upgrade_id = "5c0f",
            message_id = "0123",
            "took\nover"
        );
        let mut bytes = [0; 4096];
        loop {
            // Empty ones ask whether journald is there.
            let len = socket.recv(&mut bytes).unwrap();
            if len > 0 {
                helper::say(bytes[..len].escape_ascii());
                break;
            }
        }
    }

    #[test]
    fn journald_gets_fields() {
        let before = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal || exit 1";
        let command = helper::command(before, "sys::journal::tests::logs_natively");
        let mut unshare = std::process::Command::new("unshare");
        unshare
            .args(["--mount", "--map-root-user"])
            .arg(command.get_program())
            .args(command.get_args())
            .envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let probe = std::process::Command::new("unshare")
            .args(["--mount", "--map-root-user", "true"])
            .status();
        if !probe.is_ok_and(|status| status.success()) {
            eprintln!("skipped: this host gives no mount namespaces");
            return;
        }
        let said = helper::run(&mut unshare);
        let entry = &said[0];
        for field in [
            "PRIORITY\\n\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x004\\n",
            "\\nHANDOVER_UPGRADE_ID\\n\\x04\\x00\\x00\\x00\\x00\\x00\\x00\\x005c0f\\n",
            "\\nMESSAGE_ID\\n\\x04\\x00\\x00\\x00\\x00\\x00\\x00\\x000123\\n",
            "\\nHANDOVER_GENERATION\\n\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x007\\n",
            "\\nMESSAGE\\n\\t\\x00\\x00\\x00\\x00\\x00\\x00\\x00took\\nover\\n",
            "\\nSYSLOG_IDENTIFIER\\n",
        ] {
            assert!(entry.contains(field), "{field} is not in {entry}");
        }
    }
}
