//! Nothing names a folder of somebody's machine, not even a built object.

use super::tree::{Finding, Tree};

/// Home folders; in two pieces, so that this file passes.
const WORDS: [&str; 3] = [
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        for (line, text) in (1..).zip(file.text.lines()) {
            for word in WORDS.iter().filter(|word| text.contains(**word)) {
                findings.push(file.finding(line, format!("{word} belongs to somebody's machine")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_folders_are_found() {
        let text = format!("fine\nbuilt in {}lb\n", WORDS[0]);
        let findings = check(&Tree::of(&[("lb-ebpf/obj/a.o", &text), ("a.md", "/etc/tandem")]));
        assert_eq!(findings.len(), 1);
        assert_eq!(
            (findings[0].path.as_str(), findings[0].line),
            ("lb-ebpf/obj/a.o", 2)
        );
    }
}
