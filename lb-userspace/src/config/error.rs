//! What `load` and `parse` return when they refuse a file: every problem that was found, each with its place.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

pub use super::source::Excerpt;
pub use super::what::{Class, Family, KeyFileError, Kind, Shape, What};

/// A refused configuration.
///
/// Displayed, it is one block per problem: `file:line:column: path: what`, the line itself and a hint. Neither
/// `Display` nor `Debug` shows the group's key or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", blocks(.file, .problems))]
pub struct Error {
    /// The file as it was named.
    pub file: PathBuf,
    /// At least one, in the order of the file.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// From 1; 0 when the file as a whole is meant.
    pub line: u32,
    /// In characters, from 1; 0 when the file as a whole is meant.
    pub column: u32,
    /// The field, such as `pools[0].backends[2].weight`; empty when it is no field's problem.
    pub path: String,
    /// What is wrong.
    pub what: What,
    /// What to do about it.
    pub hint: Option<String>,
    /// The line, where it may be shown.
    pub snippet: Option<Snippet>,
}

/// A line of the file, or a part of it, with the group's key masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    /// The text.
    pub text: String,
    /// How many characters stand before the problem.
    pub mark: usize,
}

impl Problem {
    /// A problem at a place; the hint is the one that belongs to `what`.
    pub(super) fn new(place: Place, path: String, what: What) -> Self {
        let hint = what.hint();
        Self {
            line: place.line,
            column: place.column,
            path,
            what,
            hint,
            snippet: None,
        }
    }
}

/// Line and column, from 1; both 0 for the file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl From<serde_yaml::Location> for Place {
    fn from(location: serde_yaml::Location) -> Self {
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            line: small(location.line()),
            column: small(location.column()),
        }
    }
}

fn blocks(file: &Path, problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        let separator = if text.is_empty() { "" } else { "\n" };
        write!(text, "{separator}{}{problem}", file.display()).expect("writing to a String can't fail");
    }
    text
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.what)?;
        if let Some(snippet) = &self.snippet {
            let width = self.line.to_string().len().max(4);
            write!(f, "\n{:>width$} | {}", self.line, snippet.text)?;
            write!(f, "\n{:>width$} | {:>mark$}", "", "^", mark = snippet.mark + 1)?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}
