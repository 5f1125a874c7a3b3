//! What the rules ask of Rust code: paths, and what is only for tests.
//!
//! Paths are read from tokens, not from the syntax, so that those within macros count too. Comments are no tokens.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::spanned::Spanned;
use syn::{Attribute, Item};

/// A path such as `std::time::Instant`, from code or an import; a group in an import is one path for each member.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cited {
    /// Its parts; the last may be `*`.
    pub(super) parts: Vec<String>,
    /// The line of its first part.
    pub(super) line: usize,
}

/// The tokens of a file without what is only compiled for tests.
pub(super) fn without_tests(file: &syn::File) -> TokenStream {
    file.items
        .iter()
        .filter(|item| !is_test(attributes(item)))
        .map(ToTokens::to_token_stream)
        .collect()
}

/// How many lines of a file are only compiled for tests.
pub(super) fn test_lines(file: &syn::File) -> usize {
    let tests = file.items.iter().filter(|item| is_test(attributes(item)));
    tests
        .map(|item| item.span().end().line + 1 - item.span().start().line)
        .sum()
}

/// Whether what has these attributes is only compiled for tests.
pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    attributes
        .iter()
        .any(|attribute| attribute.meta.to_token_stream().to_string() == "cfg (test)")
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// All paths of two parts or more.
pub(super) fn cited(tokens: TokenStream) -> Vec<Cited> {
    let mut found = Vec::new();
    walk(tokens, &[], None, &mut found);
    found
}

/// Adds the paths in `tokens`; within the braces of an import, all of them begin with `prefix`.
fn walk(tokens: TokenStream, prefix: &[String], line: Option<usize>, found: &mut Vec<Cited>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Group(group) => {
                walk(group.stream(), prefix, line, found);
                at += 1;
            }
            TokenTree::Ident(first) => {
                let line = line.unwrap_or(first.span().start().line);
                at = path(&tokens, at, prefix, line, found);
            }
            TokenTree::Punct(star) if star.as_char() == '*' && !prefix.is_empty() => {
                push(prefix, &["*".to_owned()], line, found);
                at += 1;
            }
            _ => at += 1,
        }
    }
}

/// Reads the path that begins at `at`; returns where it ends.
fn path(
    tokens: &[TokenTree],
    mut at: usize,
    prefix: &[String],
    line: usize,
    found: &mut Vec<Cited>,
) -> usize {
    let mut parts = Vec::new();
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(part)) => parts.push(part.to_string()),
            Some(TokenTree::Punct(star)) if star.as_char() == '*' && !parts.is_empty() => {
                parts.push("*".to_owned());
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace && !parts.is_empty() => {
                let prefix: Vec<String> = prefix.iter().cloned().chain(parts).collect();
                walk(group.stream(), &prefix, Some(line), found);
                return at + 1;
            }
            _ => break,
        }
        at += 1;
        if !is_separator(&tokens[at..]) {
            break;
        }
        at += 2;
    }
    push(prefix, &parts, Some(line), found);
    at
}

fn is_separator(tokens: &[TokenTree]) -> bool {
    let is_colon =
        |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(p)) if p.as_char() == ':');
    is_colon(tokens.first()) && is_colon(tokens.get(1))
}

fn push(prefix: &[String], parts: &[String], line: Option<usize>, found: &mut Vec<Cited>) {
    let mut parts = [prefix, parts].concat();
    if parts.last().is_some_and(|last| last == "self") {
        parts.pop();
    }
    if parts.len() > 1 {
        let line = line.unwrap_or_default();
        found.push(Cited { parts, line });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_imports_code_and_macros() {
        let code = "use a::{b::{c, self}, d::*};\n\
                    fn f() { e::f::<u8>(); write!(x, \"{}\", g::h) }\n\
                    /// i::j\n\
                    const K: u8 = 0;";
        let found = cited(code.parse().unwrap());
        let text: Vec<String> = found
            .iter()
            .map(|path| format!("{} {}", path.line, path.parts.join("::")))
            .collect();
        assert_eq!(text, ["1 a::b::c", "1 a::b", "1 a::d::*", "2 e::f", "2 g::h"]);
    }

    #[test]
    fn tests_are_left_out() {
        let file = syn::parse_file("fn a() {}\n#[cfg(test)]\nmod tests {\n    use b::c;\n}\n").unwrap();
        assert_eq!(test_lines(&file), 4);
        assert_eq!(cited(without_tests(&file)), []);
    }
}
