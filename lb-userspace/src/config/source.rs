//! The text of the file as messages may show it: never the group's key, nor anything that could be it.
//!
//! Two nets, since a wrong file may hold the key anywhere. Lines of the section that holds the key (also under a
//! misspelt name) are not shown at all; elsewhere, every run of hex digits that is too long for an address or a
//! MAC is masked.

use std::fmt;

use super::error::Snippet;
use super::raw::SECTIONS;
use crate::model::GroupKey;

/// The shortest run of hex digits that is masked; groups of IPv6 addresses have 4, of MACs 2.
const MASKED_RUN: usize = 8;

/// The longest value that a message repeats, in characters.
const EXCERPT_MAX: usize = 48;

/// The longest message of the parser, in characters.
const SENTENCE_MAX: usize = 200;

/// The longest part of a line that a message shows, in characters.
const SNIPPET_MAX: usize = 100;

/// A value from the file as a message may repeat it: masked, cut, without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt(String);

impl Excerpt {
    /// What may be shown of `text`.
    pub fn new(text: &str) -> Self {
        Self::cut(text, EXCERPT_MAX)
    }

    /// The same for a sentence, which may be longer than a value.
    pub(super) fn long(text: &str) -> Self {
        Self::cut(text, SENTENCE_MAX)
    }

    fn cut(text: &str, max: usize) -> Self {
        let mut shown: String = printable(&masked(text)).chars().take(max).collect();
        if text.chars().count() > max {
            shown.push('…');
        }
        Self(shown)
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// `text` with every long run of hex digits as asterisks, one for one.
pub(super) fn masked(text: &str) -> String {
    masked_runs(text, MASKED_RUN)
}

/// The same for runs of at least `shortest`.
fn masked_runs(text: &str, shortest: usize) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let run = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        if run >= shortest {
            shown.extend(std::iter::repeat_n('*', run));
        } else {
            shown.push_str(&rest[..run]);
        }
        rest = &rest[run..];
        let other = rest.find(|c: char| c.is_ascii_hexdigit()).unwrap_or(rest.len());
        shown.push_str(&rest[..other]);
        rest = &rest[other..];
    }
    shown
}

/// `text` with a blank for every character that would move or hide a terminal's cursor, one for one.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || is_bidi(c) { ' ' } else { c })
        .collect()
}

/// Marks that make a terminal show text in another order than it is read.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// The lines of a file, each known as showable or not.
pub(super) struct Source<'t> {
    /// Line, and whether it may be shown.
    lines: Vec<(&'t str, bool)>,
}

impl<'t> Source<'t> {
    /// Cuts `text` into lines and finds those that may hold the key.
    pub(super) fn new(text: &'t str) -> Self {
        let mut hiding = false;
        let lines = text
            .split('\n')
            .map(|line| line.trim_end_matches('\r'))
            .map(|line| {
                if starts_section(line) {
                    hiding = false;
                }
                hiding |= names_secret(line);
                (line, !hiding)
            });
        Self {
            lines: lines.collect(),
        }
    }

    /// Whether line `line`, from 1, may hold the key. A line that doesn't exist may.
    pub(super) fn is_secret(&self, line: u32) -> bool {
        !self.line(line).is_some_and(|(_, shown)| shown)
    }

    /// Line `line`, both from 1, with a mark at `column`; nothing where the key may stand.
    pub(super) fn snippet(&self, line: u32, column: u32) -> Option<Snippet> {
        let (text, shown) = self.line(line)?;
        if !shown || text.trim().is_empty() {
            return None;
        }
        let column = usize::try_from(column.saturating_sub(1)).ok()?;
        let length = text.chars().count();
        let start = column
            .saturating_sub(SNIPPET_MAX / 2)
            .min(length.saturating_sub(SNIPPET_MAX));
        let text = printable(&masked(text))
            .chars()
            .skip(start)
            .take(SNIPPET_MAX)
            .collect();
        Some(Snippet {
            text,
            mark: column - start,
        })
    }

    /// The text from `column` of `line` on, for a look at what stands there, not for messages.
    pub(super) fn rest(&self, line: u32, column: u32) -> Option<&'t str> {
        let (text, _) = self.line(line)?;
        let column = usize::try_from(column.saturating_sub(1)).ok()?;
        text.char_indices().nth(column).map(|(offset, _)| &text[offset..])
    }

    /// The whole text. In lines that may hold the key, long runs of hex digits are masked; where such a line has an
    /// escape, by which digits could be written otherwise, everything after the field's name is. Elsewhere a run is
    /// masked that is as long as a key.
    pub(super) fn masked(&self) -> String {
        let lines = self.lines.iter().map(|&(line, shown)| match shown {
            true => masked_runs(line, GroupKey::DIGITS),
            false if line.contains('\\') => {
                let name = line.find(':').map_or("", |at| &line[..=at]);
                format!("{name} ****")
            }
            false => masked(line),
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn line(&self, line: u32) -> Option<(&'t str, bool)> {
        let index = usize::try_from(line.checked_sub(1)?).ok()?;
        self.lines.get(index).copied()
    }
}

/// Whether a top-level section begins here, which ends one that held the key.
fn starts_section(line: &str) -> bool {
    SECTIONS.iter().any(|section| {
        line.strip_prefix(section)
            .is_some_and(|rest| rest.starts_with(':'))
    })
}

/// Whether a field on this line is called `key` or `group`, or nearly so.
fn names_secret(line: &str) -> bool {
    line.split(':').rev().skip(1).any(|before| {
        let before = before.trim_end().trim_end_matches(['"', '\'']);
        let start = before
            .rfind(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '-'))
            .map_or(0, |at| at + 1);
        let word = before.get(start..).unwrap_or(before).to_lowercase();
        let near = |name, distance| word.len() <= 32 && strsim::osa_distance(&word, name) <= distance;
        word.contains("key") || near("key", 1) || near("group", 2) || near("key_file", 2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_hex_runs_are_masked_and_nothing_else() {
        for (text, want) in [
            (
                "key: 0f1e2d3c4b5a69788796a5b4c3d2e1f0",
                "key: ********************************",
            ),
            ("02:00:00:00:00:13", "02:00:00:00:00:13"),
            ("2001:db8:1::/64", "2001:db8:1::/64"),
            ("deadbee", "deadbee"),
            ("xdeadbeefx", "x********x"),
            ("schlüssel deadbeef", "schlüssel ********"),
            ("", ""),
        ] {
            assert_eq!(masked(text), want);
        }
    }

    #[test]
    fn lines_of_the_key_are_hidden_until_the_next_section() {
        let text = "node: {name: a}\ngroup:\n  nodes: [a]\n  key: |\n    dead\nbeef\npools:\n  - name: web\n";
        let source = Source::new(text);
        let secret: Vec<u32> = (1..=8).filter(|line| source.is_secret(*line)).collect();
        assert_eq!(secret, [2, 3, 4, 5, 6]);
        assert!(source.is_secret(99));
    }

    #[test]
    fn a_whole_text_keeps_all_but_the_key() {
        let key = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
        let stars = "*".repeat(32);
        let pool = "pools:\n  - name: deadbeef01 # mine\n";
        for (group, want) in [
            (
                format!("group:\n  nodes: [a]\n  key: {key}\n"),
                format!("group:\n  nodes: [a]\n  key: {stars}\n"),
            ),
            (
                format!("group: {{key: \"{key}\"}}\n"),
                format!("group: {{key: \"{stars}\"}}\n"),
            ),
            (
                format!("group:\n  key: \"\\x30{}\"\n", &key[1..]),
                "group:\n  key: ****\n".to_owned(),
            ),
        ] {
            assert_eq!(
                Source::new(&format!("{group}{pool}")).masked(),
                format!("{want}{pool}")
            );
        }
        assert_eq!(
            Source::new(&format!("pools: {key}")).masked(),
            format!("pools: {stars}")
        );
    }

    #[test]
    fn misspelt_names_hide_too() {
        for line in [
            "gruop: x",
            "  kye: x",
            "{\"key\" : x}",
            "groups: x",
            "keys: x",
            "group_key: x",
            "Key: x",
            "é: {key: x",
        ] {
            assert!(names_secret(line), "{line}");
        }
        for line in [
            "name: web",
            "via: {mac: x}",
            "pools:",
            "weight: 1",
            "address: 10.0.0.1",
            "no field here key",
        ] {
            assert!(!names_secret(line), "{line}");
        }
    }

    #[test]
    fn a_snippet_of_a_long_line_is_cut_around_its_mark() {
        let text = format!("pools: [{}X{}]", "é".repeat(500), "é".repeat(500));
        let snippet = Source::new(&text).snippet(1, 509).unwrap();
        assert_eq!(snippet.text.chars().count(), SNIPPET_MAX);
        assert_eq!(snippet.text.chars().nth(snippet.mark), Some('X'));
    }

    #[test]
    fn excerpts_are_short_and_harmless() {
        assert_eq!(Excerpt::new("a\u{1b}[31mb\u{202e}").to_string(), "a [31mb ");
        assert_eq!(
            Excerpt::new(&"x".repeat(100)).to_string().chars().count(),
            EXCERPT_MAX + 1
        );
    }
}
