//! Cuts a configuration's text into what the group shares and what is a node's own, and puts them together again.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use lb_common::hash::siphash13;
use serde_json::{Map, Value};

use super::block::{Block, blocks, dedented, indented};
use crate::config;
use crate::model::{GroupKey, Model};

/// Sections that every node has for itself.
const LOCAL: [&str; 3] = ["node", "metrics", "encap"];

/// Sections in the order in which a merged text has them.
const ORDER: [&str; 7] = ["node", "group", "capacity", "encap", "pools", "vips", "metrics"];

/// The section that is both: it has local fields.
const GROUP: &str = "group";

/// The fields of [`GROUP`] that are local, beside `peering.pki`.
const SECRET: [&str; 2] = ["key", "key_file"];

/// Who is in the group. Read at a node's start, so each has its own, and what the group shares only says what it should be.
const NODES: &str = "nodes";

/// How they talk: the same, and with a local field in it.
const PEERING: &str = "peering";

/// That field.
const PKI: &str = "pki";

/// By how much fields are indented where there is no example.
const STEP: usize = 2;

/// So many hex digits in a row may be a key.
const KEY_RUN: usize = GroupKey::DIGITS;

/// Why a text can't be cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A line that belongs to no section.
    #[error(
        "line {line}: no section begins here; in a group of nodes every top-level section stands at the beginning of a line, \
         without braces"
    )]
    NoSection {
        /// Counted from 1.
        line: usize,
    },
    /// `---`, `...` or a directive.
    #[error(
        "line {line}: a document marker; in a group of nodes a configuration is one document without markers"
    )]
    Marker {
        /// Counted from 1.
        line: usize,
    },
    /// A tab at the beginning of a line.
    #[error("line {line}: a tab in the indentation")]
    Tab {
        /// Counted from 1.
        line: usize,
    },
    /// A section stands there twice.
    #[error("section {0:?} stands there twice")]
    Twice(String),
    /// Something that the group shares stands in a section that is a node's own, or the other way round.
    #[error(
        "`{field}` is this node's own and can't be told from what the group shares: write `{of}` as a block, not in braces or by an alias"
    )]
    Braces {
        /// What is local.
        field: &'static str,
        /// Where it stands.
        of: &'static str,
    },
    /// The parts alone don't say what the whole says.
    #[error(
        "what the group shares can't be told from what is this node's own: is there an anchor in one section that another uses?"
    )]
    Uncut,
    /// It holds the key.
    #[error(
        "the group's key, or something as long, stands in what all nodes share: only `group.key` may hold it"
    )]
    Key,
    /// A text that is nobody's own says something else of how the nodes talk.
    #[error(
        "`group.peering` is not what the nodes run, and a text without `node` can't change it: apply a whole file, or leave it out"
    )]
    Peering,
    /// It says nothing of what the group serves.
    #[error(
        "neither `pools` nor `vips` is in it, which would end all that the group serves: write `pools: []` and `vips: []` where that is meant"
    )]
    Nothing,
    /// It has no form at all.
    #[error("{0}")]
    Yaml(String),
}

/// What is a node's own, as text.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Local {
    /// Whole sections with their names.
    sections: Vec<(String, String)>,
    /// Lines for `group`, not indented.
    group: String,
    /// `group.nodes` as this node reads it, not indented. The shared part has it, too.
    nodes: String,
    /// `group.peering` as a whole, the same.
    peering: String,
    /// Comments at the end.
    tail: String,
}

/// A configuration's text in two parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parts {
    /// What the group shares: YAML by itself.
    pub shared: String,
    /// The rest.
    pub local: Local,
}

/// Why a file can't be run.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is no valid configuration.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// It is one, but its nodes talk, and what they share can't be cut out of it.
    #[error("{}: {why}", file.display())]
    Uncut {
        /// Where it stands.
        file: PathBuf,
        /// What is in the way.
        why: TextError,
    },
}

/// Reads a configuration: its text and what it says. Where its nodes talk, the text has to be one that can be cut.
///
/// # Errors
/// All that is wrong with it.
pub fn load(file: &Path) -> Result<(String, Model), FileError> {
    let text = config::text(file)?;
    let model = config::parse(&text, file)?;
    if model.group.peering.is_some() && model.group.nodes.len() > 1 {
        let file = file.to_owned();
        split(&text, model.group.key.as_ref()).map_err(|why| FileError::Uncut { file, why })?;
    }
    Ok((text, model))
}

/// Cuts a text. `key` is the group's, which must not stand in the shared part.
///
/// # Errors
/// [`TextError`], where it can't be cut so that both parts say together what the whole says.
pub fn split(text: &str, key: Option<&GroupKey>) -> Result<Parts, TextError> {
    let text = text.trim_start_matches('\u{feff}');
    let (mut blocks, tail) = blocks(text)?;
    // In the order of a merged text, so that cutting that gives the same parts.
    blocks.sort_by_key(|block| place(&block.name));
    let mut local = Local {
        tail: ended(tail),
        ..Local::default()
    };
    let mut shared = String::new();
    for block in blocks {
        match block.name.as_str() {
            GROUP => shared.push_str(&cut_group(&block, &mut local)),
            name if LOCAL.contains(&name) => local.sections.push((block.name, ended(block.text))),
            _ => shared.push_str(&ended(block.text)),
        }
    }
    let parts = Parts { shared, local };
    parts.check(text, key)?;
    Ok(parts)
}

/// Refuses a text that says nothing of what the group serves: an empty file, a pipe that broke.
///
/// # Errors
/// [`TextError::Nothing`], or what [`split`] says.
pub fn check_content(shared: &str) -> Result<(), TextError> {
    let (blocks, _) = blocks(shared)?;
    let is_any = blocks
        .iter()
        .any(|block| ["pools", "vips"].contains(&block.name.as_str()));
    is_any.then_some(()).ok_or(TextError::Nothing)
}

/// The group's section without its local fields, which go to `local`.
fn cut_group(group: &Block, local: &mut Local) -> String {
    let Some(inner) = group.children() else {
        return ended(group.text.clone());
    };
    let mut shared = String::new();
    for child in inner.children {
        let own = dedented(&child.text, inner.indent);
        match child.name.as_str() {
            name if SECRET.contains(&name) => local.group.push_str(&own),
            NODES => {
                shared.push_str(&indented(&own, inner.indent));
                local.nodes = own;
            }
            PEERING => {
                let text = indented(&own, inner.indent);
                shared.push_str(&cut_peering(&Block { text, ..child }));
                local.peering = own;
            }
            _ => shared.push_str(&ended(child.text)),
        }
    }
    whole(inner.head, &shared, &inner.tail)
}

/// What all share of how they talk.
fn cut_peering(peering: &Block) -> String {
    let Some(inner) = peering.children() else {
        return ended(peering.text.clone());
    };
    let shared = inner.children.into_iter().filter(|child| child.name != PKI);
    let shared: String = shared.map(|child| ended(child.text)).collect();
    whole(inner.head, &shared, &inner.tail)
}

/// A field with those in it; without any it would be nothing at all.
fn whole(head: String, fields: &str, tail: &str) -> String {
    if fields.is_empty() {
        String::new()
    } else {
        ended(head + fields + tail)
    }
}

impl Local {
    /// This part, or another one where there is none in this: the key always, the rest where the text didn't name its node.
    pub fn over(self, running: &Self) -> Self {
        let names_node = self.sections.iter().any(|(name, _)| name == "node");
        let group = if self.group.is_empty() {
            running.group.clone()
        } else {
            self.group.clone()
        };
        if names_node {
            return Self { group, ..self };
        }
        // Other nodes are no other ones because the text is nobody's own.
        let nodes = if self.nodes.is_empty() {
            running.nodes.clone()
        } else {
            self.nodes
        };
        Self {
            group,
            nodes,
            ..running.clone()
        }
    }

    /// Whether there is anything of `group` in it.
    fn has_group(&self) -> bool {
        [&self.group, &self.nodes, &self.peering]
            .iter()
            .any(|text| !text.is_empty())
    }
}

impl Parts {
    /// Whether both parts together say what the whole says, and the shared one nothing that is local.
    fn check(&self, text: &str, key: Option<&GroupKey>) -> Result<(), TextError> {
        let whole = value(text)?;
        let shared = value(&self.shared).map_err(|_| TextError::Uncut)?;
        if let Some(group) = shared.get(GROUP) {
            let of = GROUP;
            if let Some(field) = SECRET.into_iter().find(|field| group.get(field).is_some()) {
                return Err(TextError::Braces { field, of });
            }
            if group
                .get(PEERING)
                .is_some_and(|peering| peering.get(PKI).is_some())
            {
                let (field, of) = (PKI, PEERING);
                return Err(TextError::Braces { field, of });
            }
        }
        if LOCAL.iter().any(|name| shared.get(name).is_some()) {
            return Err(TextError::Uncut);
        }
        let merged = merge(&self.shared, &self.local).map_err(|_| TextError::Uncut)?;
        if value(&merged).map_err(|_| TextError::Uncut)? != whole {
            return Err(TextError::Uncut);
        }
        if holds_key(&self.shared, key) {
            Err(TextError::Key)
        } else {
            Ok(())
        }
    }
}

/// Whether a text holds the key, or in its section `group` anything that could be one.
fn holds_key(shared: &str, key: Option<&GroupKey>) -> bool {
    let digits = key.map(|key| {
        key.bytes().iter().fold(String::new(), |mut text, byte| {
            // Writing to a String can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    });
    let lower = shared.to_ascii_lowercase();
    if digits.is_some_and(|digits| lower.contains(&digits)) {
        return true;
    }
    let group = blocks(&lower)
        .into_iter()
        .flat_map(|(blocks, _)| blocks)
        .find(|block| block.name == GROUP);
    group.is_some_and(|group| {
        let mut runs = group.text.split(|c: char| !c.is_ascii_hexdigit());
        runs.any(|run| run.len() >= KEY_RUN)
    })
}

/// The text that a node with this local part runs.
///
/// # Errors
/// [`TextError`], where the shared part can't be cut into sections.
pub fn merge(shared: &str, local: &Local) -> Result<String, TextError> {
    let mut sections: Vec<(String, String)> = local.sections.clone();
    let mut seen_group = false;
    let (blocks, tail) = blocks(shared)?;
    for block in blocks {
        let text = if block.name == GROUP {
            seen_group = true;
            join_group(&block, local)?
        } else {
            block.text
        };
        sections.push((block.name, text));
    }
    if !seen_group && local.has_group() {
        let own = [&local.group, &local.nodes, &local.peering].map(|text| indented(text, STEP));
        sections.push((GROUP.to_owned(), "group:\n".to_owned() + &own.concat()));
    }
    sections.sort_by_key(|(name, _)| place(name));
    let mut text: String = sections.into_iter().map(|(_, text)| ended(text)).collect();
    text.push_str(&ended(tail));
    text.push_str(&local.tail);
    Ok(text)
}

/// Refuses a text whose [`PEERING`] would get lost: in what became of its shared part it is another one.
///
/// # Errors
/// [`TextError::Peering`], and where one of them is no text.
pub fn check_peering(given: &str, became: &str) -> Result<(), TextError> {
    let peering =
        |text| value(text).map(|value| value.get(GROUP).and_then(|group| group.get(PEERING)).cloned());
    match peering(given)? {
        Some(wanted) if peering(became)?.as_ref() != Some(&wanted) => Err(TextError::Peering),
        _ => Ok(()),
    }
}

/// A section's place in a merged text.
fn place(name: &str) -> usize {
    ORDER
        .iter()
        .position(|known| *known == name)
        .unwrap_or(ORDER.len())
}

/// With an end of line at its end.
fn ended(mut text: String) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn join_group(group: &Block, local: &Local) -> Result<String, TextError> {
    if !local.has_group() {
        return Ok(group.text.clone());
    }
    let braces = || TextError::Braces {
        field: "key",
        of: GROUP,
    };
    let inner = group.children().ok_or_else(braces)?;
    // Local fields first: comments behind the last field are the group's.
    let mut text = inner.head + &indented(&local.group, inner.indent);
    let mut missing = vec![(NODES, &local.nodes), (PEERING, &local.peering)];
    missing.retain(|(_, own)| !own.is_empty());
    for child in inner.children {
        match missing.iter().position(|(name, _)| *name == child.name) {
            Some(at) => text.push_str(&indented(missing.remove(at).1, inner.indent)),
            None => text.push_str(&ended(child.text)),
        }
    }
    for (_, own) in missing {
        text.push_str(&indented(own, inner.indent));
    }
    text.push_str(&ended(inner.tail));
    Ok(text)
}

/// What a shared part says, whatever its comments and the order of its fields: equal digests mean equal parts.
///
/// # Errors
/// [`TextError::Yaml`].
pub fn digest(shared: &str) -> Result<u64, TextError> {
    let canonical = serde_json::to_vec(&value(shared)?).map_err(|e| TextError::Yaml(e.to_string()))?;
    Ok(siphash13(0, 0, &canonical))
}

/// The values of a text: fields in order of their names, none that is empty, nothing typed but structure.
fn value(text: &str) -> Result<Value, TextError> {
    if text
        .lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
    {
        return Ok(Value::Object(Map::new()));
    }
    let value = config::values(text).map_err(|problem| TextError::Yaml(problem.to_string()))?;
    Ok(normal(value))
}

fn normal(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(String, Value)> = fields
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name, normal(value)))
                .collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(normal).collect()),
        // Every value is text to the configuration: `3` and `"3"` are the same.
        Value::Number(number) => Value::String(number.to_string()),
        Value::Bool(truth) => Value::String(truth.to_string()),
        value => value,
    }
}

#[cfg(test)]
mod tests;
