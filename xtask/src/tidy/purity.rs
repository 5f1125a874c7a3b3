//! Cores compute: what they know comes in as arguments, what they want goes out as values.

use super::rust;
use super::tree::{Finding, Tree};

/// Files and folders that are pure.
const PURE: [&str; 14] = [
    "lb-common/src/",
    "lb-userspace/src/model/",
    "lb-userspace/src/state/",
    "lb-userspace/src/trace/",
    "lb-userspace/src/net/",
    "lb-userspace/src/health/",
    "lb-userspace/src/charter/",
    "lb-userspace/src/group/",
    "lb-userspace/src/peer/facts.rs",
    "lb-userspace/src/peer/fsm.rs",
    "lb-userspace/src/peer/wire.rs",
    "lb-userspace/src/rate.rs",
    "lb-userspace/src/sync/",
    "lb-userspace/src/ctl/top/model.rs",
];

/// The files among them that are not: the shells of `net` and `health`, as their modules' pages say.
const SHELL: [&str; 5] = [
    "lb-userspace/src/net/socket.rs",
    "lb-userspace/src/net/event.rs",
    "lb-userspace/src/net/resolver.rs",
    "lb-userspace/src/health/store.rs",
    "lb-userspace/src/health/task.rs",
];

/// What they don't know.
const FOREIGN: [&str; 13] = [
    "std::time::Instant",
    "std::time::SystemTime",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os::unix::net",
    "tokio",
    "rand",
    "getrandom",
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let is_pure = |path: &str| PURE.iter().any(|pure| path.starts_with(pure)) && !SHELL.contains(&path);
    let mut findings = Vec::new();
    for (file, syntax) in tree.rust().filter(|(file, _)| is_pure(&file.path)) {
        for cited in rust::cited(rust::without_tests(syntax)) {
            if FOREIGN.iter().any(|foreign| reaches(&cited.parts, foreign)) {
                let what = format!("{} in a file that only computes", cited.parts.join("::"));
                findings.push(file.finding(cited.line, what));
            }
        }
    }
    findings
}

/// Whether a path leads into `foreign`, or brings a module by which it could be reached unseen.
fn reaches(parts: &[String], foreign: &str) -> bool {
    let foreign: Vec<&str> = foreign.split("::").collect();
    let is_glob = parts.last().is_some_and(|last| last == "*");
    let parts = &parts[..parts.len() - usize::from(is_glob)];
    let same = parts.iter().zip(&foreign).take_while(|(a, b)| a == b).count();
    let is_module = parts.len() > 1 || is_glob;
    same == foreign.len() || same == parts.len() && is_module
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        check(&Tree::of(&[(path, text)])).len()
    }

    #[test]
    fn clocks_files_sockets_tasks_and_chance_are_found() {
        for text in [
            "use std::time::Instant;",
            "use std::time::{Duration, SystemTime};",
            "use std::time;",
            "use std::time::*;",
            "fn f() { std::fs::read(x); }",
            "use std::{fmt, env};",
            "use std::net::{IpAddr, UdpSocket};",
            "use tokio::time::sleep;",
            "fn f() { rand::random() }",
        ] {
            assert_eq!(found("lb-userspace/src/state/a.rs", text), 1, "{text}");
        }
    }

    #[test]
    fn values_tests_and_shells_are_not() {
        for text in [
            "use std::time::Duration;",
            "use std::net::IpAddr;",
            "use std::collections::*;",
            "#[cfg(test)]\nmod tests { use std::fs; }",
        ] {
            assert_eq!(found("lb-userspace/src/model/a.rs", text), 0, "{text}");
        }
        for path in ["lb-userspace/src/net/socket.rs", "lb-userspace/src/agent/a.rs"] {
            assert_eq!(found(path, "use tokio::time::sleep;"), 0);
        }
    }
}
