//! Text to raw types; the parser's errors become problems.

use serde_path_to_error::Segment;
use serde_yaml::budget::BudgetBreach;
use serde_yaml::{DefaultMessageFormatter, Error, MessageFormatter, Options};

use super::error::{Place, Problem};
use super::raw;
use super::source::{Excerpt, Source, masked};
use super::what::{Shape, What};

/// What the scanner says of brackets beyond their limit; it looks ahead, so it may say so before the depth is
/// reached, and its errors have no types.
const NESTING_MESSAGE: &str = "recursion limit";

/// How the parser is limited: 32,768 backends with a `via` each, and as many VIPs, are 0.8 million values.
///
/// Nothing in a configuration is nested deeper than 7.
fn options() -> Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_documents: 2,
            max_depth: 32,
            flow_nesting_limit: 32,
            max_nodes: 2_000_000,
            max_events: 4_000_000,
            // One anchor for all backends' `via` is fine; replayed events have a limit of their own.
            enforce_alias_anchor_ratio: false,
        },
        // Comments are read over: no limit on how many there are in a row.
        emit_comments: false,
        // Its snippets know nothing of the group's key.
        with_snippet: false,
    }
}

/// The file as written, or the one problem at which the parser stopped, without snippet.
pub(super) fn read(text: &str) -> Result<raw::File, Box<Problem>> {
    let mut path = String::new();
    let file = serde_yaml::with_deserializer_from_str_with_options(text, options(), |deserializer| {
        serde_path_to_error::deserialize::<_, raw::File>(deserializer).map_err(|error| {
            path = dotted(error.path());
            error.into_inner()
        })
    });
    file.map_err(|error| Box::new(problem(&error, path, &Source::new(text))))
}

/// What a text says, unchecked.
pub(super) fn values(text: &str) -> Result<serde_json::Value, Box<Problem>> {
    let values = serde_yaml::from_str_with_options(text, options());
    values.map_err(|error| Box::new(problem(&error, String::new(), &Source::new(text))))
}

/// The path as messages show it. The parser's wrapper for values with places is left out: it looks like a mapping
/// with the field `value`, which no part of a configuration has.
fn dotted(path: &serde_path_to_error::Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key } if key != "value" => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&Excerpt::new(key).to_string());
            }
            Segment::Map { .. } | Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    text
}

fn problem(error: &Error, path: String, source: &Source<'_>) -> Problem {
    let place = error.location().map(Place::from).unwrap_or_default();
    let what = what(cause(error), place, source);
    let path = match &what {
        What::UnknownField { field, .. } => parent(&path, field),
        _ => path,
    };
    Problem::new(place, path, what)
}

/// `path` with its last field, which the parser took from the file, as `field` is shown.
fn parent(path: &str, field: &Excerpt) -> String {
    match path.rsplit_once('.') {
        Some((parent, _)) => format!("{parent}.{field}"),
        None => field.to_string(),
    }
}

/// The error itself, without the place from which an alias led to it.
fn cause(mut error: &Error) -> &Error {
    while let Error::AliasError { error: inner, .. } | Error::WithSnippet { error: inner, .. } = error {
        error = inner;
    }
    error
}

fn what(error: &Error, place: Place, source: &Source<'_>) -> What {
    let secret = source.is_secret(place.line);
    match error {
        Error::Eof { .. } => What::Empty,
        Error::MultipleDocuments { .. }
        | Error::Budget {
            breach: BudgetBreach::Documents { .. },
            ..
        } => What::Documents,
        Error::Budget {
            breach: BudgetBreach::Depth { .. },
            ..
        } => What::Nesting,
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => What::Volume,
        Error::Unexpected { expected, .. } => structure(expected, place, source),
        Error::SerdeUnknownField { field, expected, .. } => What::UnknownField {
            field: field_name(field, secret),
            known: expected.clone(),
        },
        Error::DuplicateMappingKey { key, .. } => {
            What::RepeatedField(field_name(key.as_deref().unwrap_or("?"), secret))
        }
        error => syntax(&DefaultMessageFormatter.format_message(error), secret),
    }
}

fn syntax(message: &str, secret: bool) -> What {
    if message.contains(NESTING_MESSAGE) {
        What::Nesting
    } else if secret {
        What::SecretSyntax
    } else {
        What::Syntax(Excerpt::long(message))
    }
}

/// The name of a field that the file chose. In the section of the key it may be the key itself, so there it is
/// shown only when it reads like a word.
fn field_name(name: &str, secret: bool) -> Excerpt {
    let is_word = name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        && name
            .chars()
            .any(|c| c.is_ascii_lowercase() && !c.is_ascii_hexdigit());
    if secret && !is_word {
        Excerpt::new("****")
    } else {
        Excerpt::new(&masked(name))
    }
}

/// The parser says which kind of node it wants; what it found is read from the text.
fn structure(expected: &str, place: Place, source: &Source<'_>) -> What {
    let expected = match expected {
        "mapping start" => Shape::Mapping,
        "sequence start" => Shape::List,
        _ => Shape::Scalar,
    };
    let rest = source.rest(place.line, place.column).unwrap_or_default();
    let is_item = rest == "-" || rest.starts_with("- ");
    let is_field = rest.ends_with(':') || rest.contains(": ");
    let found = match rest.chars().next() {
        Some('[') => Shape::List,
        Some('{') => Shape::Mapping,
        _ if is_item => Shape::List,
        _ if is_field && expected != Shape::Mapping => Shape::Mapping,
        _ if expected == Shape::Scalar => Shape::Mapping,
        _ => Shape::Scalar,
    };
    What::Structure { expected, found }
}
