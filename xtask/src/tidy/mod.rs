//! `cargo xtask tidy`: rules of the repository that no compiler checks.
//!
//! | file | rule |
//! |---|---|
//! | `order` | a crate's `lib.rs` lists modules in dependency order |
//! | `size` | no file and no function grows too long |
//! | `purity` | cores know no clock, file, socket, task, environment or randomness |
//! | `unsafety` | `unsafe` stays in the files that are known for it |
//! | `docs` | links, paths and symbols that the docs cite exist |
//! | `words` | nothing names a folder of somebody's machine |
//!
//! Each is a function from a [`Tree`] to [`Finding`]s, so that its tests are small trees.

mod docs;
mod order;
mod purity;
mod rust;
mod size;
mod tree;
mod unsafety;
mod words;

use anyhow::{Result, bail};
use std::path::Path;
use tree::{Finding, Tree};

/// Checks all rules, and that the generated docs are current.
///
/// # Errors
/// When a rule is broken; what and where is on stderr.
pub(crate) fn tidy(root: &Path) -> Result<()> {
    let findings = rules(&Tree::read(root)?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => crate::docs::check(root),
        n => bail!("{n} places are not tidy"),
    }
}

fn rules(tree: &Tree) -> Vec<Finding> {
    let checks = [
        order::check,
        size::check,
        purity::check,
        unsafety::check,
        docs::check,
        words::check,
    ];
    let mut findings = tree.broken.clone();
    findings.extend(checks.iter().flat_map(|check| check(tree)));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let findings = rules(&Tree::read(&crate::step::repository()).unwrap());
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }

    #[test]
    fn a_file_that_does_not_parse_is_a_finding() {
        let tree = Tree::of(&[("xtask/src/a.rs", "fn {")]);
        assert_eq!(rules(&tree).len(), 1);
    }
}
