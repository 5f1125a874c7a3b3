//! `unsafe` stays where readers look for it.

use super::tree::{Finding, Tree};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;

/// Whether a file may hold `unsafe`: a frame's bytes, the programs' maps, and what touches BPF or raw sockets.
fn may(path: &str) -> bool {
    path == "lb-ebpf/src/packet.rs"
        || path.starts_with("lb-ebpf/src/") && path.ends_with("/maps.rs")
        // The bench's yardstick is one frozen file.
        || path == "lb-ebpf/src/bench_reference/main.rs"
        || path.starts_with("lb-userspace/src/dataplane/")
        || path == "lb-userspace/src/net/raw.rs"
}

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, syntax) in tree.rust().filter(|(file, _)| !may(&file.path)) {
        let mut lines = Vec::new();
        collect(syntax.to_token_stream(), &mut lines);
        let what = "unsafe outside packet.rs, maps.rs, dataplane and net/raw.rs";
        findings.extend(lines.into_iter().map(|line| file.finding(line, what)));
    }
    findings
}

/// The lines of all `unsafe`, but those of attributes such as `#[unsafe(no_mangle)]`.
fn collect(tokens: TokenStream, lines: &mut Vec<usize>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => collect(group.stream(), lines),
            TokenTree::Ident(word) if word == "unsafe" => {
                let is_attribute = matches!(tokens.peek(), Some(TokenTree::Group(group))
                    if group.delimiter() == Delimiter::Parenthesis);
                if !is_attribute {
                    lines.push(word.span().start().line);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        check(&Tree::of(&[(path, text)])).len()
    }

    #[test]
    fn unsafe_elsewhere_is_found() {
        for text in [
            "fn f() { unsafe { g() } }",
            "unsafe impl Send for A {}",
            "m! { unsafe fn f() {} }",
        ] {
            assert_eq!(found("lb-userspace/src/net/link.rs", text), 1, "{text}");
            assert_eq!(found("lb-ebpf/src/lb_xdp/parse.rs", text), 1, "{text}");
            assert_eq!(found("lb-userspace/src/dataplane/pod.rs", text), 0, "{text}");
            assert_eq!(found("lb-ebpf/src/lb_xdp/maps.rs", text), 0, "{text}");
        }
    }

    #[test]
    fn attributes_and_comments_are_not() {
        let text = "//! unsafe\n#[unsafe(no_mangle)]\nstatic A: u8 = 0;\n";
        assert_eq!(found("lb-ebpf/src/lib.rs", text), 0);
    }
}
