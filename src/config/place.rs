//! Where in the configuration something stands, and how an error shows it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What an error points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// A place in a file.
    File(Box<Place>),
    /// A flag of the command line, such as `--listen`.
    Flag(&'static str),
    /// What the program itself sets: its author's mistake, not the operator's.
    BuiltIn,
}

/// A place in a file, with the line that an error shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The whole line, without its end.
    pub text: String,
    /// How many characters are meant; at least 1, never past the line's end.
    pub width: usize,
}

impl Place {
    /// The place of a byte range of `text`; a range past the end means the end.
    pub(super) fn new(path: &Path, text: &str, span: Range<usize>) -> Self {
        let mut start = span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_text = text[line_start..].lines().next().unwrap_or("");
        let end = span.end.min(line_start + line_text.len());
        let width = text.get(start..end).map_or(0, |part| part.chars().count());
        Self {
            path: path.to_owned(),
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            text: line_text.to_owned(),
            width: width.max(1),
        }
    }
}

/// `file:line:column`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path, line, column, ..
        } = self;
        write!(f, "{}:{line}:{column}", path.display())
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(place) => place.fmt(f),
            Self::Flag(flag) => f.write_str(flag),
            Self::BuiltIn => f.write_str("the program's own configuration"),
        }
    }
}

/// The line with carets under what is meant, each part on a line of its own after a line break;
/// nothing where there is no line. Long lines are cut around the place, and control characters are
/// shown as `·`: a configuration does not write to a terminal.
pub(super) struct Excerpt<'a>(pub &'a Where);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Where::File(place) = self.0 else {
            return Ok(());
        };
        let before = place.column - 1;
        let skip = before.saturating_sub(SHOWN_BEFORE);
        let shown: String = place.text.chars().skip(skip).take(SHOWN).collect();
        let indent: String = shown
            .chars()
            .chain(std::iter::repeat(' '))
            .take(before - skip)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let carets = place.width.min(SHOWN - indent.chars().count());
        let line: String = shown
            .chars()
            .map(|c| if c.is_control() && c != '\t' { '·' } else { c })
            .collect();
        let gutter = place.line.to_string().len();
        write!(f, "\n{} | {line}", place.line)?;
        write!(f, "\n{:gutter$} | {indent}{}", "", "^".repeat(carets))
    }
}

/// Characters of a line that are shown, and of those before the place.
const SHOWN: usize = 120;
const SHOWN_BEFORE: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str, span: Range<usize>) -> String {
        let at = Where::File(Box::new(Place::new(Path::new("/f"), text, span)));
        format!("{at}{}", Excerpt(&at))
    }

    #[test]
    fn a_place_is_shown_with_carets_under_it() {
        assert_eq!(
            show("a = 1\nbé = 2\n", 12..13),
            "/f:2:6\n2 | bé = 2\n  |      ^"
        );
        assert_eq!(show("\tab\r\n", 1..3), "/f:1:2\n1 | \tab\n  | \t^^");
    }

    #[test]
    fn ranges_at_or_past_the_end_and_over_several_lines_are_shown_too() {
        assert_eq!(show("", 0..0), "/f:1:1\n1 | \n  | ^");
        assert_eq!(show("a", 5..9), "/f:1:2\n1 | a\n  |  ^");
        assert_eq!(show("a\n", 2..2), "/f:2:1\n2 | \n  | ^");
        assert_eq!(show("ab\ncd\n", 1..5), "/f:1:2\n1 | ab\n  |  ^");
        assert_eq!(show("é", 1..2), "/f:1:1\n1 | é\n  | ^");
    }

    #[test]
    fn long_lines_are_cut_and_control_characters_never_reach_the_terminal() {
        let long = format!("{}\u{1b}[31m{}", "x".repeat(500), "y".repeat(500));
        let shown = show(&long, 500..1005);
        assert!(!shown.contains('\u{1b}'), "{shown}");
        assert!(shown.lines().all(|l| l.chars().count() < 130), "{shown}");
        assert!(shown.contains("x·[31my"), "{shown}");
    }
}
