//! What a failed lab leaves behind for people: logs, configs, map dumps and the network's state.

use std::fs;
use std::path::{Path, PathBuf};

use lb_common::abi::map;

use crate::command;
use crate::error::{IoContext, LabError};
use crate::host::Node;
use crate::lab::Lab;
use crate::netns::Netns;

/// Network state of each namespace.
const IP_COMMANDS: [(&str, &[&str]); 4] = [
    ("links", &["-d", "-s", "-s", "link", "show"]),
    ("addresses", &["address", "show"]),
    ("routes", &["route", "show", "table", "all"]),
    ("neighbours", &["neigh", "show"]),
];

/// Writes everything to `target/lab/<name>/` (what was there before goes) and returns the folder.
/// A part that can't be had is replaced by the reason.
pub fn save(name: &str, lab: &Lab) -> Result<PathBuf, LabError> {
    let dir = target_dir().join("lab").join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).context(|| format!("remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).context(|| format!("make {}", dir.display()))?;
    copy_files(&lab.id().dir(), &dir)?;
    for namespace in lab.id().namespaces() {
        write(
            &dir,
            &format!("{}.network.txt", namespace.name()),
            &network_state(&namespace),
        )?;
    }
    for node in lab.nodes() {
        write(&dir, &format!("{}.state.json", node.name()), &node_state(node))?;
    }
    Ok(dir)
}

/// Cargo's folder for build results: the one that the running program is in, else `target` here.
fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let around = exe
        .ancestors()
        .find(|dir| dir.file_name().is_some_and(|n| n == "target"));
    around.map_or_else(|| PathBuf::from("target"), Path::to_owned)
}

fn copy_files(from: &Path, to: &Path) -> Result<(), LabError> {
    let entries = fs::read_dir(from).context(|| format!("list {}", from.display()))?;
    for path in entries.flatten().map(|e| e.path()) {
        let wanted = path.extension().is_some_and(|e| e == "log" || e == "yaml");
        if let (true, Some(file)) = (wanted, path.file_name()) {
            fs::copy(&path, to.join(file)).context(|| format!("copy {}", path.display()))?;
        }
    }
    Ok(())
}

fn network_state(namespace: &Netns) -> String {
    let section = |(title, args): &(&str, &[&str])| {
        let mut ip = std::process::Command::new("ip");
        let text = command::check(ip.args(["-n", namespace.name()]).args(*args));
        format!("== {title}\n{}\n", text.unwrap_or_else(|e| e.to_string()))
    };
    // Absolute counters of the stack, zeroes left out, without touching nstat's history file.
    let counters = command::check(namespace.command("nstat").args(["-a", "-s"]));
    let counters = format!("== counters\n{}\n", counters.unwrap_or_else(|e| e.to_string()));
    IP_COMMANDS.iter().map(section).chain([counters]).collect()
}

/// All views of `lbctl` and the entries of every map but the slots, of which the rings tell the same in short.
fn node_state(node: &Node) -> String {
    let show = |args: &[&str]| match node.lbctl_json(args) {
        Ok(json) => json,
        Err(error) => serde_json::Value::String(error.to_string()),
    };
    let rings = node
        .config()
        .pools
        .iter()
        .map(|p| (p.name.clone(), show(&["ring", &p.name])));
    let rings: serde_json::Map<_, _> = rings.collect();
    let entries = map::ALL.iter().filter(|name| **name != map::SLOTS);
    let maps: serde_json::Map<_, _> = entries
        .map(|name| ((*name).to_owned(), show(&["maps", name])))
        .collect();
    let state = serde_json::json!({
        "status": show(&["status"]), "backends": show(&["backends"]), "stats": show(&["stats"]),
        "rings": rings, "maps": maps,
    });
    format!("{state:#}\n")
}

fn write(dir: &Path, file: &str, text: &str) -> Result<(), LabError> {
    let path = dir.join(file);
    fs::write(&path, text).context(|| format!("write {}", path.display()))
}
