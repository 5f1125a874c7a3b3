//! `lbctl ready`, `lbctl leave` and `lbctl forget`: this node and its group.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::api::client::{Client, escaped};
use crate::api::group::{Done, GroupState, Readiness};
use crate::ctl::cmd::wait;
use crate::ctl::out::Output;

/// How often it is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// Whether this node may attract traffic; waits for it for so long.
pub(super) fn ready(socket: &Path, patience: Duration) -> Result<Output> {
    let until = Instant::now() + patience;
    loop {
        let asked: Result<Readiness> = match wait(Client::new(socket).get_either("/v1/ready")) {
            Ok(answer) => answer.map_err(Into::into),
            Err(e) => Err(e.into()),
        };
        match asked {
            Ok(readiness) if readiness.ready => {
                return Ok(Output::yes(serde_json::to_value(&readiness)?, text(&readiness)));
            }
            Ok(readiness) if Instant::now() >= until => {
                return Ok(Output::no(serde_json::to_value(&readiness)?, text(&readiness)));
            }
            Err(e) if Instant::now() >= until => return Err(e),
            _ => std::thread::sleep(AGAIN),
        }
    }
}

fn text(readiness: &Readiness) -> String {
    let mut text = match &readiness.why {
        None => "ready".to_owned(),
        Some(why) => format!("not ready: {why}"),
    };
    if let Some(group) = &readiness.group {
        text.push_str(&words(group));
    }
    text
}

fn words(group: &GroupState) -> String {
    let list = |names: &[String]| match names {
        [] => "nobody".to_owned(),
        names => names.join(" "),
    };
    let mut words = format!(
        "\ncoordinator: {}\nmembers: {}\nlive: {}",
        group.coordinator.as_deref().unwrap_or("nobody"),
        list(&group.members),
        list(&group.live)
    );
    if let Some(what) = &group.under_way {
        words.push_str(&format!("\nunder way: {what}"));
    }
    if !group.waits_for.is_empty() {
        words.push_str(&format!("\nwaits for: {}", list(&group.waits_for)));
    }
    if group.rejoins {
        words.push_str("\nthe group went on without this node, which serves on and joins it again");
    }
    if !group.adrift.is_empty() {
        words.push_str(&format!(
            "\nadrift: {} (may forward all the same, so tracked slots stay until it is back; `lbctl forget NODE` if it doesn't)",
            list(&group.adrift)
        ));
    }
    words
}

/// Has this node leave its group; its agent ends when that is done.
pub(super) fn leave(socket: &Path, patience: Option<Duration>) -> Result<Output> {
    let ordered = done(socket, "/v1/leave")?;
    let Some(patience) = patience else {
        return Ok(ordered);
    };
    let until = Instant::now() + patience;
    let said = |done: String| (serde_json::json!({ "done": done }), done);
    while UnixStream::connect(socket).is_ok() {
        if Instant::now() >= until {
            let (json, text) = said(
                "it leaves its group, and its agent still runs: `lbctl ready` says how far it is".to_owned(),
            );
            return Ok(Output::no(json, text));
        }
        std::thread::sleep(AGAIN);
    }
    let (json, text) = said("its agent has ended; `lbctl events` says how".to_owned());
    Ok(Output::yes(json, text))
}

/// Has the group count a silent node as one that forwards nothing.
pub(super) fn forget(socket: &Path, node: &str) -> Result<Output> {
    if node.is_empty() {
        bail!("which node?");
    }
    done(socket, &format!("/v1/peers/{}/forget", escaped(node)))
}

fn done(socket: &Path, path: &str) -> Result<Output> {
    let done: Done = wait(Client::new(socket).post(path, &serde_json::json!({})))??;
    Ok(Output::yes(serde_json::to_value(&done)?, done.done))
}
