//! `lib.rs` lists modules in dependency order: a module uses only modules above it.

use super::rust;
use super::tree::{Finding, Tree};
use syn::Item;

/// The crates that promise it.
const CRATES: [&str; 2] = ["lb-common", "lb-userspace"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    CRATES.iter().flat_map(|name| check_crate(tree, name)).collect()
}

fn check_crate(tree: &Tree, name: &str) -> Vec<Finding> {
    let source = format!("{name}/src/");
    let Some((_, lib)) = tree
        .rust()
        .find(|(file, _)| file.path == format!("{source}lib.rs"))
    else {
        return Vec::new();
    };
    let modules: Vec<String> = lib.items.iter().filter_map(module).collect();
    let place = |name: &str| modules.iter().position(|module| module == name);
    let mut findings = Vec::new();
    for (file, syntax) in tree.rust() {
        let Some(inner) = file.path.strip_prefix(&source) else {
            continue;
        };
        let Some(own) = place(first(inner)) else {
            continue;
        };
        for cited in rust::cited(rust::without_tests(syntax)) {
            let Some(used) = used(&cited.parts, depth(inner)) else {
                continue;
            };
            if place(used).is_some_and(|place| place > own) {
                let what = format!("module {} uses {used}, which is below it in lib.rs", modules[own]);
                findings.push(file.finding(cited.line, what));
            }
        }
    }
    findings
}

fn module(item: &Item) -> Option<String> {
    match item {
        Item::Mod(module) => Some(module.ident.to_string()),
        _ => None,
    }
}

/// The crate's module that a file of `src` belongs to.
fn first(path: &str) -> &str {
    let end = path.find('/').unwrap_or(path.len());
    path[..end].trim_end_matches(".rs")
}

/// How many modules a file of `src` lies deep.
fn depth(path: &str) -> usize {
    path.trim_end_matches("/mod.rs").split('/').count()
}

/// The part of a path that names a module of the crate, from a file that lies `depth` deep.
fn used(parts: &[String], depth: usize) -> Option<&str> {
    let ups = parts.iter().take_while(|part| *part == "super").count();
    if parts[0] == "crate" {
        parts.get(1).map(String::as_str)
    } else if ups >= depth {
        parts.get(ups).map(String::as_str)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: (&str, &str) = ("lb-userspace/src/lib.rs", "pub mod a;\npub mod b;\n");

    fn found(path: &str, text: &str) -> usize {
        check(&Tree::of(&[LIB, (path, text)])).len()
    }

    #[test]
    fn a_module_may_use_what_is_above_it() {
        assert_eq!(
            found("lb-userspace/src/b.rs", "use crate::a::X; use crate::b::Y;"),
            0
        );
        assert_eq!(found("lb-userspace/src/a/c.rs", "use super::b::X;"), 0);
    }

    #[test]
    fn and_not_what_is_below() {
        for (path, text) in [
            ("lb-userspace/src/a.rs", "use crate::b::X;"),
            ("lb-userspace/src/a/c.rs", "use crate::{a::Y, b::X};"),
            ("lb-userspace/src/a/mod.rs", "use super::b::X;"),
            ("lb-userspace/src/a/c.rs", "use super::super::b::X;"),
            ("lb-userspace/src/a.rs", "fn f() { info!(crate::b::X) }"),
        ] {
            assert_eq!(found(path, text), 1, "{text}");
        }
    }
}
