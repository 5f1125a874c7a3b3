//! Lines of YAML by the fields that they belong to.

use super::text::TextError;

/// A field of a mapping with its lines, and with the comments before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Block {
    pub(super) name: String,
    /// Its lines, with their ends.
    pub(super) text: String,
}

/// What a block has in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Inner {
    /// The lines up to the first field.
    pub(super) head: String,
    /// How far its fields are indented, in blanks.
    pub(super) indent: usize,
    pub(super) children: Vec<Block>,
    /// Comments behind the last field.
    pub(super) tail: String,
}

/// The top-level fields of a text, each with the comments before it, and the comments behind the last.
///
/// # Errors
/// [`TextError`], for a text that is more than fields one under the other.
pub(super) fn blocks(text: &str) -> Result<(Vec<Block>, String), TextError> {
    let mut found: Vec<Block> = Vec::new();
    let mut loose = String::new();
    let mut started = false;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let number = index + 1;
        let bare = line.trim_end();
        if bare == "---" && !started {
            started = true;
            continue;
        }
        if is_marker(bare) {
            return Err(TextError::Marker { line: number });
        }
        if bare.is_empty() || is_comment(bare) && indent_of(bare) == 0 {
            loose.push_str(line);
            continue;
        }
        started = true;
        let blank = &bare[..bare.len() - bare.trim_start().len()];
        if blank.contains('\t') && !is_comment(bare) {
            return Err(TextError::Tab { line: number });
        }
        match (field(bare, 0), found.last_mut()) {
            (Some(name), _) => {
                if found.iter().any(|block| block.name == name) {
                    return Err(TextError::Twice(name));
                }
                let text = std::mem::take(&mut loose) + line;
                found.push(Block { name, text });
            }
            (None, Some(last)) if goes_on(bare) => {
                last.text.push_str(&std::mem::take(&mut loose));
                last.text.push_str(line);
            }
            // It would belong to whatever comes before it in a merged text.
            (None, None) if is_comment(bare) => loose.push_str(line.trim_start_matches(' ')),
            _ => return Err(TextError::NoSection { line: number }),
        }
    }
    Ok((found, loose))
}

impl Block {
    /// Its fields, where it is a block of fields one under the other.
    pub(super) fn children(&self) -> Option<Inner> {
        let is_head = |line: &&str| line.trim().is_empty() || is_comment(line);
        let lines: Vec<&str> = self.text.split_inclusive('\n').collect();
        let head = lines.iter().position(|line| !is_head(line))?;
        let own = indent_of(lines[head]);
        let value = lines[head].split_once(':')?.1.trim();
        if !(value.is_empty() || value.starts_with('#')) {
            return None;
        }
        let mut inner = Inner {
            head: lines[..=head].concat(),
            indent: 0,
            children: Vec::new(),
            tail: String::new(),
        };
        let mut loose = String::new();
        for line in &lines[head + 1..] {
            let bare = line.trim_end();
            if bare.is_empty() || is_comment(bare) {
                loose.push_str(line);
                continue;
            }
            if inner.indent == 0 {
                inner.indent = indent_of(bare);
                if inner.indent <= own {
                    return None;
                }
            }
            match (field(bare, inner.indent), inner.children.last_mut()) {
                (Some(name), _) => {
                    let text = std::mem::take(&mut loose) + line;
                    inner.children.push(Block { name, text });
                }
                (None, Some(last)) if indent_of(bare) >= inner.indent => {
                    last.text.push_str(&std::mem::take(&mut loose));
                    last.text.push_str(line);
                }
                _ => return None,
            }
        }
        if inner.children.is_empty() {
            return None;
        }
        inner.tail = loose;
        Some(inner)
    }
}

/// The blanks before the first character.
pub(super) fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// Lines with so many blanks less; a line that has fewer loses those that it has.
pub(super) fn dedented(text: &str, by: usize) -> String {
    let less = |line: &str| line[indent_of(line).min(by)..].to_owned();
    let text: String = text.split_inclusive('\n').map(less).collect();
    if text.ends_with('\n') { text } else { text + "\n" }
}

/// Lines with so many blanks more; empty lines stay as they are.
pub(super) fn indented(text: &str, by: usize) -> String {
    let more = |line: &str| match line.trim().is_empty() {
        true => line.to_owned(),
        false => " ".repeat(by) + line,
    };
    text.split_inclusive('\n').map(more).collect()
}

fn is_marker(bare: &str) -> bool {
    ["---", "..."].iter().any(|marker| {
        let rest = bare.strip_prefix(marker);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
    }) || bare.starts_with('%')
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// Whether a line that begins no section goes on with the one before: what is indented, items of a list that are not, and
/// closing brackets.
fn goes_on(bare: &str) -> bool {
    bare.starts_with([' ', ']', '}']) || bare == "-" || bare.starts_with("- ")
}

/// The name of the field that begins on a line with that indentation.
fn field(bare: &str, indent: usize) -> Option<String> {
    if indent_of(bare) != indent {
        return None;
    }
    let (name, rest) = bare[indent..].split_once(':')?;
    if !(rest.is_empty() || rest.starts_with([' ', '\t'])) {
        return None;
    }
    let name = name.trim_end();
    let quoted = |mark| name.strip_prefix(mark).and_then(|name| name.strip_suffix(mark));
    let name = quoted('"').or_else(|| quoted('\'')).unwrap_or(name);
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    (!name.is_empty() && name.chars().all(legal) && !name.starts_with('-')).then(|| name.to_owned())
}
