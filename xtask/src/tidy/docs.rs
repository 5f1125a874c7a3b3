//! What the docs cite exists: links, headings, paths, symbols. Lines aren't cited: they move.

use super::tree::{File, Finding, Tree};
use proc_macro2::TokenTree;
use std::collections::BTreeSet;

/// Ends of names that are files of the repository where they stand in a path.
const FILES: [&str; 7] = [".rs", ".md", ".toml", ".yaml", ".json", ".service", ".o"];

/// Words before the name that they define.
const DEFINES: [&str; 10] = [
    "fn",
    "struct",
    "enum",
    "const",
    "static",
    "mod",
    "type",
    "trait",
    "union",
    "macro_rules!",
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let crates = crates(tree);
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, text) in prose(&file.text) {
            let mut report = |what: String| findings.push(file.finding(line, what));
            for target in links(text) {
                if let Some(what) = broken_link(tree, file, target) {
                    report(what);
                }
            }
            for code in spans(text) {
                if cites_line(code) {
                    report(format!("`{code}` cites a line; cite the symbol"));
                } else if is_missing_path(tree, code) {
                    report(format!("`{code}` does not exist"));
                } else if is_missing_symbol(tree, &crates, code) {
                    report(format!("`{code}` is defined nowhere"));
                }
            }
        }
    }
    findings
}

/// Lines outside fenced blocks, from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        !fenced && !is_fence
    })
}

/// Targets of `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// Text in backticks.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    let parts: Vec<&str> = line.split('`').collect();
    let closed = parts.len() - 1;
    (1..closed).step_by(2).map(move |at| parts[at])
}

fn broken_link(tree: &Tree, file: &File, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, heading) = target
        .split_once('#')
        .map_or((target, None), |(path, heading)| (path, Some(heading)));
    let path = if path.is_empty() {
        file.path.clone()
    } else {
        beside(&file.path, path)
    };
    if !path.is_empty() && !tree.has(&path) {
        return Some(format!("link to {target}: no such file"));
    }
    let heading = heading?;
    if cites_line(target) {
        return Some(format!("link to {target} cites a line; cite the symbol"));
    }
    let text = tree
        .files
        .iter()
        .find(|file| file.path == path)
        .map_or("", |file| &file.text);
    let known = prose(text).any(|(_, line)| line.starts_with('#') && slug(line) == heading);
    (!known).then(|| format!("link to {target}: no such heading"))
}

/// The anchor of a heading.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// `target` as seen from the root, where it stands in the file `from`.
fn beside(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Whether a file's name is followed by a line's number, as in `a.rs:7` or `a.rs#L7`.
fn cites_line(text: &str) -> bool {
    FILES.iter().any(|end| {
        text.match_indices(end).any(|(at, _)| {
            let rest = &text[at + end.len()..];
            let number = rest.strip_prefix(':').or_else(|| rest.strip_prefix("#L"));
            number.is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
        })
    })
}

/// Whether this reads like a path in the repository, and leads nowhere.
fn is_missing_path(tree: &Tree, code: &str) -> bool {
    let is_path = code.contains('/')
        && code
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_'));
    let first = code.split('/').next().unwrap_or_default();
    if !is_path || first.is_empty() || first == "target" {
        return false;
    }
    if tree.has(first) {
        !tree.has(code)
    } else {
        FILES.iter().any(|end| code.ends_with(end)) && !tree.has_end(code)
    }
}

/// Whether this is `module::Symbol`, or `Type::item`, and the repository has no such thing.
fn is_missing_symbol(tree: &Tree, crates: &BTreeSet<String>, code: &str) -> bool {
    let parts: Vec<&str> = code.trim_end_matches("()").split("::").collect();
    let [.., owner, symbol] = parts.as_slice() else {
        return false;
    };
    if !parts.iter().all(|part| is_word(part)) || crates.contains(parts[0]) {
        return false;
    }
    !tree.rust().any(|(file, syntax)| {
        let text = &file.text;
        if owner.starts_with(|c: char| c.is_ascii_uppercase()) {
            defines(text, owner) && has_word(text, symbol)
        } else {
            (belongs(&file.path, owner) || defines(text, owner)) && defines(text, symbol)
                || belongs(&file.path, owner) && is_made(syntax, symbol)
                || is_module(&file.path, owner, symbol)
        }
    })
}

fn is_word(part: &str) -> bool {
    !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Whether a file is part of a module or crate of this name.
fn belongs(path: &str, module: &str) -> bool {
    let folder = module.replace('_', "-");
    path.trim_end_matches(".rs")
        .split('/')
        .any(|part| part == module || part == folder)
}

/// Whether a file is the module `symbol` in the module or crate `owner`.
fn is_module(path: &str, owner: &str, symbol: &str) -> bool {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    path.rsplit_once('/')
        .is_some_and(|(folder, name)| name == symbol && belongs(folder, owner))
}

/// Whether a macro of the file makes `symbol`: it is the first name that the macro is given.
fn is_made(file: &syn::File, symbol: &str) -> bool {
    file.items.iter().any(|item| {
        let syn::Item::Macro(item) = item else {
            return false;
        };
        let mut tokens = item.mac.tokens.clone().into_iter();
        let first = tokens.find_map(|token| match token {
            TokenTree::Ident(name) => Some(name),
            _ => None,
        });
        first.is_some_and(|name| name == symbol)
    })
}

fn defines(text: &str, symbol: &str) -> bool {
    words(text, symbol).any(|at| {
        let before = text[..at].trim_end();
        DEFINES.iter().any(|word| before.ends_with(word))
    })
}

fn has_word(text: &str, symbol: &str) -> bool {
    words(text, symbol).next().is_some()
}

/// Where `symbol` stands as a word of its own.
fn words<'t>(text: &'t str, symbol: &'t str) -> impl Iterator<Item = usize> + 't {
    let is_inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(symbol).map(|(at, _)| at).filter(move |at| {
        !text[..*at].ends_with(is_inside) && !text[at + symbol.len()..].starts_with(is_inside)
    })
}

/// Names of crates of others, from the lockfile, as code writes them.
fn crates(tree: &Tree) -> BTreeSet<String> {
    let lock = tree.files.iter().filter(|file| file.path.ends_with("Cargo.lock"));
    let names = lock
        .flat_map(|file| file.text.lines())
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
        .filter(|name| !tree.has(name))
        .map(|name| name.replace('-', "_"));
    names.chain(["std", "core", "alloc"].map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let tree = Tree::of(&[
            ("README.md", "# Top\n\n## What it can't do\n"),
            ("docs/A.md", text),
            (
                "lb-common/src/vip.rs",
                "pub struct Key;\npub enum Kind { Any }\nmade! { /// A doc.\n Made, MADE: 1 }\n",
            ),
            ("lb-common/src/pin/mod.rs", "pub mod path;\n"),
            ("Cargo.lock", "name = \"serde-x\"\nname = \"lb-common\"\n"),
        ]);
        check(&tree).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_exists_is_fine() {
        for text in [
            "[a](../README.md) [b](../README.md#what-it-cant-do) [c](https://example.org/x) [d](#here)\n# Here\n",
            "`lb-common/src/vip.rs` `lb-common/` `src/vip.rs` `target/lab` `/etc/tandem` `a/b`",
            "`vip::Key` `vip::Made` `lb_common::vip::Key` `Kind::Any` `pin::path` `serde_x::Any` `std::fs`",
            "```\n[a](nowhere.md) `lb-common/nowhere`\n```\n",
            "10:30, `key: 7`, a lone ` here",
        ] {
            assert_eq!(found(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn what_does_not_is_found() {
        for text in [
            "[a](../NOWHERE.md)",
            "[a](../README.md#nowhere)",
            "[a](#nowhere)",
            "`lb-common/src/nowhere.rs`",
            "`src/nowhere.rs`",
            "`vip::Nowhere`",
            "`vip::MADE`",
            "`nowhere::Key`",
            "`Kind::Nowhere`",
            "`pin::nowhere`",
        ] {
            assert_eq!(found(text).len(), 1, "{text}");
        }
        assert_eq!(
            found("fine\n`vip::No`"),
            ["docs/A.md:2: `vip::No` is defined nowhere"]
        );
    }

    #[test]
    fn lines_are_not_cited() {
        for text in [
            "`vip.rs:7`",
            "`lb-common/src/vip.rs:7`",
            "[a](../lb-common/src/vip.rs#L7)",
        ] {
            assert_eq!(found(text).len(), 1, "{text}");
        }
    }
}
