//! Several TOML documents made one, each value keeping its place: spans are shifted, so that a
//! span of the merged document still says which file it is from.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::error::ConfigError;
use super::place::{Place, Where};

/// One text that has a say.
#[derive(Debug)]
pub(super) struct Document {
    /// Who says so.
    pub(super) origin: Origin,
    /// TOML.
    pub(super) text: String,
}

/// Who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The program.
    BuiltIn,
    /// A file.
    File(PathBuf),
    /// A flag of the command line.
    Flag(&'static str),
}

/// What documents say together.
#[derive(Debug)]
pub(super) struct Merged<'d> {
    /// With what their spans are shifted by, ascending.
    documents: Vec<(usize, &'d Document)>,
    table: DeTable<'d>,
}

/// One step on the way to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Of a table.
    Key(&'static str),
    /// Of a list.
    Entry(usize),
}

impl<'d> Merged<'d> {
    /// Lays each document over those before it: tables merge key by key, all else is replaced, and
    /// the `[[listener]]` entries of files find each other by name.
    pub(super) fn new(documents: &'d [Document]) -> Result<Self, ConfigError> {
        let mut merged = Self {
            documents: Vec::new(),
            table: DeTable::new(),
        };
        let mut base = 0;
        for document in documents {
            merged.documents.push((base, document));
            let table = DeTable::parse(&document.text)
                .map_err(|error| merged.syntax(&error, base))?
                .into_inner();
            let listeners = merge_tables(&mut merged.table, shift_table(table, base));
            merged.merge_listeners(listeners);
            // One more than its length: a document's end is not yet the next one's start.
            base += document.text.len() + 1;
        }
        Ok(merged)
    }

    /// The values.
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let whole = Spanned::new(0..0, self.table.clone());
        T::deserialize(toml::Deserializer::from(whole)).map_err(|error| self.syntax(&error, 0))
    }

    /// Where the value at `way` stands, or else the nearest table around it.
    pub(super) fn place_of(&self, way: &[Step]) -> Where {
        (1..=way.len())
            .rev()
            .find_map(|n| self.find(&way[..n]))
            .map_or(Where::BuiltIn, |value| self.place(value.span()))
    }

    /// Who says what stands at `way`.
    pub(super) fn origin_of(&self, way: &[Step]) -> Option<&'d Origin> {
        let start = self.find(way)?.span().start;
        self.document(start).map(|(_, document)| &document.origin)
    }

    /// What stands under a key.
    pub(super) fn value(&self, key: &str) -> Option<&Spanned<DeValue<'d>>> {
        self.table.get(key)
    }

    fn find(&self, way: &[Step]) -> Option<&Spanned<DeValue<'d>>> {
        let (first, rest) = way.split_first()?;
        let Step::Key(key) = first else { return None };
        rest.iter().try_fold(self.table.get(*key)?, |value, step| {
            match (step, value.get_ref()) {
                (Step::Key(key), DeValue::Table(table)) => table.get(*key),
                (Step::Entry(n), DeValue::Array(entries)) => entries.get(*n),
                _ => None,
            }
        })
    }

    fn document(&self, position: usize) -> Option<(usize, &'d Document)> {
        let of = |(base, _): &&(usize, _)| *base <= position;
        self.documents.iter().rev().find(of).copied()
    }

    fn place(&self, span: Range<usize>) -> Where {
        let Some((base, document)) = self.document(span.start) else {
            return Where::BuiltIn;
        };
        match &document.origin {
            Origin::BuiltIn => Where::BuiltIn,
            Origin::Flag(flag) => Where::Flag(flag),
            Origin::File(path) => {
                let local = span.start - base..span.end.max(span.start) - base;
                Where::File(Box::new(Place::new(path, &document.text, local)))
            }
        }
    }

    pub(super) fn syntax(&self, error: &toml::de::Error, base: usize) -> ConfigError {
        let span = error.span().unwrap_or(0..0);
        ConfigError::Syntax {
            at: self.place(span.start + base..span.end + base),
            message: plain(error.message()),
        }
    }

    /// Between files an entry replaces the one of its name, field by field; a name that one of them
    /// has several times (several sockets may share it) is replaced as a whole; a new name is
    /// appended. The program's own list gives way to a file's, and every list to the command line's.
    fn merge_listeners(&mut self, over: Option<(Key<'d>, Value<'d>)>) {
        let Some((key, over)) = over else { return };
        let under = self.table.remove(LISTENER);
        let from_file = |value: &Spanned<DeValue<'_>>| {
            self.document(value.span().start)
                .is_some_and(|(_, d)| matches!(d.origin, Origin::File(_)))
        };
        let over = match under {
            Some(under) if is_empty_list(&over) => under,
            Some(under) if from_file(&under) && from_file(&over) => {
                let span = over.span();
                match (under.into_inner(), over.into_inner()) {
                    (DeValue::Array(under), DeValue::Array(over)) => {
                        Spanned::new(span, DeValue::Array(merge_lists(under, over)))
                    }
                    // Not lists: the reader will say so.
                    (_, over) => Spanned::new(span, over),
                }
            }
            _ => over,
        };
        self.table.insert(key, over);
    }
}

impl Origin {
    /// The directory that relative paths of a file are relative to.
    pub(super) fn directory(&self) -> Option<&Path> {
        match self {
            Self::File(path) => path.parent(),
            Self::BuiltIn | Self::Flag(_) => None,
        }
    }
}

/// serde's words in an operator's.
pub(super) fn plain(message: &str) -> String {
    if message == "invalid type: map, expected a sequence" {
        // The only list there is.
        return "there may be several listeners: write `[[listener]]`, with two brackets".into();
    }
    let mut message = message
        .replace("unknown field", "unknown key")
        .replace("missing field", "missing key")
        // Not of every program.
        .replace(", `application`", "");
    if let Some((found, expected)) = message.split_once(", expected ") {
        let expected = match expected {
            "u16" | "u32" | "u64" | "usize" => "a whole number, not below 0",
            "path string" => "a path",
            "a sequence" => "a list",
            other if other.starts_with("struct ") => "a table",
            other => other,
        };
        message = format!("{found}, expected {expected}");
    }
    message
}

type Key<'d> = Spanned<DeString<'d>>;
type Value<'d> = Spanned<DeValue<'d>>;

/// Gives back what `over` has under `listener`, unmerged.
fn merge_tables<'d>(under: &mut DeTable<'d>, over: DeTable<'d>) -> Option<(Key<'d>, Value<'d>)> {
    let mut listeners = None;
    for (key, value) in over {
        if key.get_ref() == LISTENER {
            listeners = Some((key, value));
        } else {
            merge_value(under, key, value);
        }
    }
    listeners
}

fn merge_value<'d>(under: &mut DeTable<'d>, key: Key<'d>, over: Value<'d>) {
    let name: &str = key.get_ref();
    let both = under.get_mut(name).map(Spanned::get_mut);
    if let (Some(DeValue::Table(under)), DeValue::Table(over)) = (both, over.get_ref()) {
        for (key, value) in over.clone() {
            merge_value(under, key, value);
        }
        return;
    }
    under.insert(key, over);
}

fn merge_lists<'d>(under: DeArray<'d>, over: DeArray<'d>) -> DeArray<'d> {
    let under: Vec<Value<'d>> = under.into_iter().collect();
    let mut over: Vec<Value<'d>> = over.into_iter().collect();
    let mut merged = DeArray::new();
    for entry in &under {
        let name = listener_name(entry);
        let same = |other: &Value<'_>| name.is_some() && listener_name(other) == name;
        let times_under = under.iter().filter(|e| same(e)).count();
        let times_over = over.iter().filter(|e| same(e)).count();
        if times_over == 0 {
            merged.push(entry.clone());
        } else if times_under == 1 && times_over == 1 {
            let at = over.iter().position(same).expect("counted");
            merged.push(merge_entries(entry.clone(), over.remove(at)));
        }
        // else: dropped here, the other file's are appended below.
    }
    for entry in over {
        merged.push(entry);
    }
    merged
}

fn merge_entries<'d>(mut under: Value<'d>, over: Value<'d>) -> Value<'d> {
    if let (DeValue::Table(under), DeValue::Table(over)) = (under.get_mut(), over.into_inner()) {
        for (key, value) in over {
            merge_value(under, key, value);
        }
    }
    under
}

fn listener_name<'v>(entry: &'v Value<'_>) -> Option<&'v str> {
    entry.get_ref().as_table()?.get("name")?.get_ref().as_str()
}

fn is_empty_list(value: &Value<'_>) -> bool {
    value
        .get_ref()
        .as_array()
        .is_some_and(|list| list.is_empty())
}

fn shift_table(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    table
        .into_iter()
        .map(|(key, value)| (shift(key, by, |key| key), shift_value(value, by)))
        .collect()
}

fn shift_value(value: Value<'_>, by: usize) -> Value<'_> {
    shift(value, by, |value| match value {
        DeValue::Table(table) => DeValue::Table(shift_table(table, by)),
        DeValue::Array(list) => {
            DeValue::Array(list.into_iter().map(|v| shift_value(v, by)).collect())
        }
        plain => plain,
    })
}

fn shift<T>(value: Spanned<T>, by: usize, inner: impl FnOnce(T) -> T) -> Spanned<T> {
    let Range { start, end } = value.span();
    Spanned::new(start + by..end + by, inner(value.into_inner()))
}

const LISTENER: &str = "listener";
