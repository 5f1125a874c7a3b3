//! YAML to [`Model`]: a file is either valid as a whole or refused with every problem that it has.
//!
//! Three steps: text to raw types (structure and field names; it stops at the first problem), raw types to model
//! (all problems at once), problems to blocks of text with place, line and hint. `dist/lb.example.yaml` shows
//! every field.

mod duration;
mod error;
mod key;
mod raw;
mod reference;
mod source;
mod validate;
mod what;
mod wrong_group;
mod wrong_health;
mod yaml;

use std::fs::File;
use std::io::Read;
use std::path::Path;

pub use error::{Class, Error, Excerpt, Family, KeyFileError, Kind, Problem, Shape, Snippet, What};
pub use reference::{Field, UnknownField, explain, fields, schema};
pub use wrong_group::WrongGroup;
pub use wrong_health::WrongHealth;

use crate::model::Model;
use error::Place;
use source::Source;

/// The largest file that is read, in bytes; 32,768 backends and as many VIPs take a third of it.
pub const FILE_MAX: u64 = 16 << 20;

/// Reads and checks a file.
///
/// # Errors
/// All problems of the file, or the one that keeps it from being read.
pub fn load(path: &Path) -> Result<Model, Error> {
    parse(&text(path)?, path)
}

/// Reads a file's text, unchecked, for [`parse`].
///
/// # Errors
/// The problem that keeps it from being read.
pub fn text(path: &Path) -> Result<String, Error> {
    read(path).map_err(|problem| Error {
        file: path.to_owned(),
        problems: vec![*problem],
    })
}

/// A configuration's text as it may be shown: the group's key, and whatever near it could be one, is masked.
pub fn masked(text: &str) -> String {
    Source::new(text).masked()
}

/// What a text says, as plain values and unchecked: not for more than to compare two texts.
///
/// # Errors
/// The problem at which the parser stopped.
pub fn values(text: &str) -> Result<serde_json::Value, Box<Problem>> {
    yaml::values(text.trim_start_matches('\u{feff}'))
}

/// Checks a file's text. `path` stands in messages and is where a relative `key_file` starts from.
///
/// # Errors
/// All problems of the text; where its structure is broken, only the first.
pub fn parse(text: &str, path: &Path) -> Result<Model, Error> {
    let text = text.trim_start_matches('\u{feff}');
    let result = yaml::read(text).map_err(|problem| vec![*problem]);
    result
        .and_then(|file| validate::model(&file, text, path))
        .map_err(|mut problems| {
            let source = Source::new(text);
            for problem in &mut problems {
                problem.snippet = source.snippet(problem.line, problem.column);
            }
            problems.sort_by_key(|problem| (problem.line, problem.column));
            Error {
                file: path.to_owned(),
                problems,
            }
        })
}

fn read(path: &Path) -> Result<String, Box<Problem>> {
    let whole = |what| Box::new(Problem::new(Place::default(), String::new(), what));
    let unreadable = |error: std::io::Error| whole(What::Unreadable(error.kind()));
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(whole(What::Directory));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(whole(What::TooLarge { limit: FILE_MAX }));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid =
            String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
        Box::new(Problem::new(end(&valid), String::new(), What::Encoding))
    })
}

/// The place of the character that would follow `text`.
fn end(text: &str) -> Place {
    let line = text.rsplit('\n').next().unwrap_or_default();
    let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Place {
        line: small(text.matches('\n').count() + 1),
        column: small(line.chars().count() + 1),
    }
}
