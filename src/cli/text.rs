//! Times, sizes and tables for people.

use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Colour, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Paint(pub(super) bool);

impl Paint {
    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(super) fn attention(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// "12 ms", "3.1 s", "42 s", "1 min 5 s", "2 h 10 min", "5 d".
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |big: u64, unit: &str, small: u64, less: &str| match small {
        0 => format!("{big} {unit}"),
        _ => format!("{big} {unit} {small} {less}"),
    };
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..10 => format!("{seconds}.{} s", duration.subsec_millis() / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86400, "d", seconds % 86400 / 3600, "h"),
    }
}

/// As [`duration`], counting whole seconds up: for a countdown.
pub(super) fn left(ms: u64) -> String {
    match ms.div_ceil(1000) {
        s @ 0..60 => format!("{s} s"),
        s => duration(Duration::from_secs(s)),
    }
}

/// How long ago an RFC 3339 time was; as it stands when it is none.
pub(super) fn ago(time: &str, now: Timestamp) -> String {
    let Ok(then) = time.parse::<Timestamp>() else {
        return time.to_owned();
    };
    let past = now.duration_since(then).as_secs().max(0).unsigned_abs();
    // The larger unit is enough.
    match past {
        0..60 => format!("{past} s"),
        60..3600 => format!("{} min", past / 60),
        3600..86400 => format!("{} h", past / 3600),
        _ => format!("{} d", past / 86400),
    }
}

/// "2026-11-22 15:24:03Z"; as it stands when it is no time.
pub(super) fn clock(time: &str) -> String {
    time.parse::<Timestamp>().map_or_else(
        |_| time.to_owned(),
        |t| t.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
    )
}

/// "812 KiB", "2.1 MiB".
pub(super) fn memory(kib: u64) -> String {
    match kib {
        0 => "?".into(),
        1..1024 => format!("{kib} KiB"),
        _ => format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024),
    }
}

/// The beginning of an id or build id: enough to tell it from others.
pub(super) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// On one line: reasons come from what a bad release printed.
pub(super) fn one_line(text: &str) -> String {
    printable(text.trim().replace(['\n', '\t'], " "))
}

/// The first of several lines, where there is room for one: what follows are an application's last lines,
/// or the place in a file.
pub(super) fn first_line(text: &str) -> String {
    let text = text.trim();
    match text.split_once('\n') {
        Some((first, _)) => one_line(&format!("{} ...", first.trim_end_matches([':', ' ']))),
        None => one_line(text),
    }
}

/// With everything that could command a terminal, or hide what stands there, written out. Lines and
/// tabs stay.
pub(crate) fn printable(text: impl Into<String>) -> String {
    escape(text.into(), |c| match c {
        '\0'..='\x7f' => format!("\\x{:02x}", u32::from(c)),
        _ => c.escape_unicode().to_string(),
    })
}

/// The same for a JSON document: what it means stays.
pub(super) fn printable_json(text: &str) -> String {
    // Between values a carriage return is a space; in a string it is no JSON.
    escape(text.replace('\r', " "), |c| {
        format!("\\u{:04x}", u32::from(c))
    })
}

/// Reads JSON of somebody who is not trusted, with every string made printable.
pub(super) fn understand<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    fn clean(value: &mut Value) {
        match value {
            Value::String(text) => *text = printable(std::mem::take(text)),
            Value::Array(values) => values.iter_mut().for_each(clean),
            Value::Object(values) => values.values_mut().for_each(clean),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut value: Value = serde_json::from_slice(json)?;
    clean(&mut value);
    serde_json::from_value(value)
}

fn escape(text: String, how: impl Fn(char) -> String) -> String {
    let commands = |c: char| {
        c.is_control() && c != '\n' && c != '\t'
            // Line ends of another kind, and what turns the direction of writing.
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}' | '\u{200e}' | '\u{200f}')
    };
    if !text.contains(commands) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if commands(c) {
            out += &how(c);
        } else {
            out.push(c);
        }
    }
    out
}

/// "1 worker", "2 workers".
pub(super) fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Columns two spaces apart, the first row a heading; no blanks at a line's end.
pub(super) fn table(rows: &[Vec<String>], paint: Paint) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|i| {
            let cells = rows.iter().filter_map(|row| row.get(i));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let line = line.trim_end();
        text += &if number == 0 {
            paint.dim(line)
        } else {
            line.to_owned()
        };
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_like_speech() {
        let said = |ms| duration(Duration::from_millis(ms));
        assert_eq!(said(0), "0 ms");
        assert_eq!(said(999), "999 ms");
        assert_eq!(said(3_149), "3.1 s");
        assert_eq!(said(42_900), "42 s");
        assert_eq!(said(65_000), "1 min 5 s");
        assert_eq!(said(600_000), "10 min");
        assert_eq!(said(7_800_000), "2 h 10 min");
        assert_eq!(said(5 * 86_400_000), "5 d");
        assert_eq!(left(41_001), "42 s");
        assert_eq!(left(0), "0 s");
        assert_eq!(left(60_001), "1 min 1 s");
    }

    #[test]
    fn times_are_told_relative_to_now() {
        let now = "2026-11-22T15:00:00Z".parse().unwrap();
        assert_eq!(ago("2026-11-22T14:59:18Z", now), "42 s");
        assert_eq!(ago("2026-11-22T14:00:00Z", now), "1 h");
        assert_eq!(ago("2026-11-20T14:00:00.5+00:00", now), "2 d");
        assert_eq!(ago("2026-11-22T16:00:00Z", now), "0 s");
        assert_eq!(ago("yesterday", now), "yesterday");
        assert_eq!(
            clock("2026-11-22T16:00:00.25+01:00"),
            "2026-11-22 15:00:00Z"
        );
    }

    #[test]
    fn of_a_long_reason_the_first_line_is_shown() {
        let reason = "it exited with code 3; its last lines:\n  Traceback\n  ImportError\n";
        assert_eq!(
            first_line(reason),
            "it exited with code 3; its last lines ..."
        );
        assert_eq!(first_line(" workers crash\n"), "workers crash");
    }

    #[test]
    fn a_reason_stays_on_its_line() {
        assert_eq!(one_line("panic:\n\x1b[31mred\n"), "panic: \\x1b[31mred");
    }

    #[test]
    fn nothing_commands_a_terminal() {
        let hostile = "a\x1b]0;t\x07\r\u{9b}2J\u{7f}\u{202e}b\n\tc";
        assert_eq!(
            printable(hostile),
            "a\\x1b]0;t\\x07\\x0d\\u{9b}2J\\x7f\\u{202e}b\n\tc"
        );
        let document = "{\"a\": \"\u{9b}2J\u{7f}\u{202e}\"}\r\n";
        let shown = printable_json(document);
        assert_eq!(shown, "{\"a\": \"\\u009b2J\\u007f\\u202e\"} \n");
        let means = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(means(document), means(&shown));
    }

    #[test]
    fn sizes_and_tables() {
        assert_eq!(memory(0), "?");
        assert_eq!(memory(812), "812 KiB");
        assert_eq!(memory(2150), "2.0 MiB");
        let rows = [
            vec!["A".into(), "LONG".into()],
            vec!["wide".into(), "x".into()],
        ];
        assert_eq!(table(&rows, Paint(false)), "A     LONG\nwide  x\n");
        assert_eq!(short("3fa9c2d1aa"), "3fa9c2d1");
        assert_eq!(short("é"), "é");
    }
}
