//! Files and functions that can be read at one go.

use super::rust;
use super::tree::{File, Finding, Tree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Lines of a file, without its tests.
const FILE: usize = 600;

/// Lines of a function, from `fn` to its last brace; functions of unit tests aside.
const FUNCTION: usize = 80;

/// The same in the programs: a stage.
const STAGE: usize = 60;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, syntax) in tree.rust() {
        let lines = file.text.lines().count() - rust::test_lines(syntax);
        if lines > FILE {
            findings.push(file.finding(0, format!("{lines} lines without tests, more than {FILE}")));
        }
        let cap = if file.path.starts_with("lb-ebpf/src/") {
            STAGE
        } else {
            FUNCTION
        };
        let mut functions = Functions {
            file,
            cap,
            findings: &mut findings,
        };
        functions.visit_file(syntax);
    }
    findings
}

struct Functions<'t> {
    file: &'t File,
    cap: usize,
    findings: &'t mut Vec<Finding>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let first = signature.fn_token.span().start().line;
        let lines = body.span().end().line + 1 - first;
        if lines > self.cap {
            let what = format!("{} has {lines} lines, more than {}", signature.ident, self.cap);
            self.findings.push(self.file.finding(first, what));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    /// Tests are left out: one table of cases may be long.
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !rust::is_test(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.measure(&function.sig, body);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let findings = check(&Tree::of(&[(path, text)]));
        findings.iter().map(ToString::to_string).collect()
    }

    fn function(lines: usize) -> String {
        format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2))
    }

    #[test]
    fn functions() {
        assert_eq!(found("a.rs", &function(80)), [""; 0]);
        assert_eq!(
            found("a.rs", &function(81)),
            ["a.rs:1: f has 81 lines, more than 80"]
        );
        let method = format!("impl A {{\n{}}}\n", function(81));
        assert_eq!(found("a.rs", &method).len(), 1);
        let nested = format!("mod inner {{\n{}}}\n", function(81));
        assert_eq!(found("a.rs", &nested).len(), 1);
        assert_eq!(found("a.rs", &format!("#[cfg(test)]\n{nested}")), [""; 0]);
    }

    #[test]
    fn stages_of_programs() {
        assert_eq!(found("lb-ebpf/src/lb_xdp/a.rs", &function(60)), [""; 0]);
        assert_eq!(found("lb-ebpf/src/lb_xdp/a.rs", &function(61)).len(), 1);
    }

    #[test]
    fn files_without_their_tests() {
        let long = "const A: u8 = 0;\n".repeat(601);
        assert_eq!(
            found("a.rs", &long),
            ["a.rs: 601 lines without tests, more than 600"]
        );
        let tests = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert_eq!(found("a.rs", &tests), [""; 0]);
    }
}
