//! `lbctl config plan`, `apply` and `show`: configurations, with the running agent.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use lb_common::slot::SLOTS;

use crate::api::client::{Client, escaped};
use crate::api::dto::{Applied, Charter, Leaving, Planned, Running};
use crate::config::FILE_MAX;
use crate::ctl::cmd::wait;
use crate::ctl::out::{Output, percent};
use crate::state::plan::{Change, Plan, PoolPlan};
use crate::state::wall::Wall;

pub(super) fn plan(socket: &Path, file: &Path) -> Result<Output> {
    let text = read(file)?;
    let path = format!("/v1/config/plan?name={}", name(file));
    let planned: Planned = wait(Client::new(socket).post_yaml(&path, text))??;
    if !planned.plan.refused.is_empty() {
        bail!("{}", planned.plan.refused.join("\n"));
    }
    let json = serde_json::to_value(&planned)?;
    let text = describe(&planned.plan, &planned.leaving);
    if planned.plan.is_empty() {
        return Ok(Output::yes(json, format!("nothing would change\n{text}")));
    }
    let from = planned.group.unwrap_or_else(|| planned.generation.to_string());
    let text = format!("{text}\nfrom generation {from}");
    Ok(Output::no(json, text))
}

pub(super) fn apply(socket: &Path, file: &Path, generation: Option<u64>) -> Result<Output> {
    let text = read(file)?;
    let mut path = format!("/v1/config/apply?name={}", name(file));
    if let Some(generation) = generation {
        path.push_str(&format!("&generation={generation}"));
    }
    let applied: Applied = wait(Client::new(socket).post_yaml(&path, text))??;
    done(&applied)
}

pub(super) fn rollback(socket: &Path, number: Option<u64>) -> Result<Output> {
    let query = number.map_or(String::new(), |number| format!("?number={number}"));
    let path = format!("/v1/config/rollback{query}");
    let applied: Applied = wait(Client::new(socket).post_yaml(&path, String::new()))??;
    done(&applied)
}

fn done(applied: &Applied) -> Result<Output> {
    let mut text = if applied.plan.is_empty() {
        "nothing changed\n".to_owned()
    } else {
        describe(&applied.plan, &[])
    };
    let name = match &applied.group {
        Some(group) => format!("{group} on every member of the group"),
        None => applied.generation.to_string(),
    };
    text.push_str(&format!(
        "\nin force as generation {name}, written to {}",
        applied.file
    ));
    if let Some(backup) = &applied.backup {
        text.push_str(&format!("; what was there is in {backup}"));
    }
    text.push_str(&without(&applied.without));
    Ok(Output::yes(serde_json::to_value(applied)?, text))
}

/// A line about nodes that were no members when something was agreed on.
pub(super) fn without(nodes: &[String]) -> String {
    if nodes.is_empty() {
        return String::new();
    }
    format!(
        "\nno members now: {}; whichever side of a group that is cut apart makes more generations has the last word when it heals",
        nodes.join(", ")
    )
}

pub(super) fn show(socket: &Path) -> Result<Output> {
    let running: Running = wait(Client::new(socket).get("/v1/config"))??;
    let differs = if running.file_differs {
        "; that file now says something else"
    } else {
        ""
    };
    let of_node = match &running.charter {
        Some(_) => "in force here".to_owned(),
        None => format!("generation {}", running.generation),
    };
    let text = format!(
        "{}# {of_node} since {}, from {} by {}{differs}\n{}",
        running.charter.as_ref().map(of_group).unwrap_or_default(),
        Wall(running.since).text(),
        running.file,
        running.source,
        running.text
    );
    Ok(Output::yes(serde_json::to_value(&running)?, text))
}

/// How the node stands to its group, as a comment.
fn of_group(charter: &Charter) -> String {
    let mut text = format!("# generation {} of the group", charter.generation);
    if let Some(pending) = &charter.pending {
        text.push_str(&format!(", {pending} is not decided"));
    }
    for (is_wrong, what) in [
        (
            !charter.equal,
            "a live peer has another one, or hasn't said which",
        ),
        (!charter.in_force, "this node could not put it into force yet"),
        (charter.drift, "this node's file says something else"),
    ] {
        if is_wrong {
            text.push_str(&format!("; {what}"));
        }
    }
    text.push('\n');
    text
}

/// The text of a file, or of stdin; the agent judges it.
fn read(file: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        io::stdin().lock().take(FILE_MAX + 1).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes))
    };
    read.with_context(|| file.display().to_string())?;
    if bytes.len() as u64 > FILE_MAX {
        bail!("{}: longer than {} MiB", file.display(), FILE_MAX >> 20);
    }
    String::from_utf8(bytes).with_context(|| format!("{}: not UTF-8", file.display()))
}

/// The file's name as messages of the agent shall have it, for a query.
fn name(file: &Path) -> String {
    match file.to_string_lossy().as_ref() {
        "-" => escaped("(stdin)"),
        name => escaped(name),
    }
}

fn describe(plan: &Plan, leaving: &[Leaving]) -> String {
    let mut lines: Vec<String> = plan.pools.iter().flat_map(|plan| pool(plan, leaving)).collect();
    lines.extend(plan.vips_added.iter().map(|vip| format!("+ VIP {vip}")));
    lines.extend(plan.vips_removed.iter().map(|vip| format!("- VIP {vip}")));
    lines.extend(
        plan.vips_repointed
            .iter()
            .map(|r| format!("~ VIP {}: pool {} instead of {}", r.vip, r.to, r.from)),
    );
    lines.extend(plan.interfaces_added.iter().map(|i| format!("+ interface {i}")));
    lines.extend(plan.interfaces_removed.iter().map(|i| format!("- interface {i}")));
    lines.extend(plan.other.iter().map(|section| format!("~ {section}")));
    lines.extend(
        plan.next_hops_missing
            .iter()
            .map(|missing| format!("! no next hop for {}: {}", missing.backend, missing.why)),
    );
    lines.join("\n")
}

fn pool(plan: &PoolPlan, leaving: &[Leaving]) -> Vec<String> {
    let mut lines = vec![match plan.change {
        Change::Added => format!("+ pool {}", plan.name),
        Change::Removed => format!("- pool {}", plan.name),
        Change::Changed => format!(
            "~ pool {}: {} of its slots move",
            plan.name,
            percent(f64::from(plan.slots_moved), SLOTS as f64)
        ),
    }];
    lines.extend(plan.added.iter().map(|name| format!("    + {name}")));
    lines.extend(plan.removed.iter().map(|name| removed(&plan.name, name, leaving)));
    lines.extend(
        plan.reweighted
            .iter()
            .map(|r| format!("    ~ {}: weight {} instead of {}", r.backend, r.to, r.from)),
    );
    lines.extend(
        plan.readdressed
            .iter()
            .map(|name| format!("    ~ {name}: another address or next hop")),
    );
    lines.extend(
        plan.rewrapped
            .iter()
            .map(|r| format!("    ~ encap: {} instead of {}", r.to, r.from)),
    );
    if !plan.vips_protected.is_empty() {
        let vips = plan.vips_protected.join(", ");
        lines.push(format!(
            "    flows of {vips} are protected: they stay where they are"
        ));
    }
    if !plan.vips_unprotected.is_empty() {
        let vips = plan.vips_unprotected.join(", ");
        lines.push(format!(
            "    ! flows of {vips} in the slots that move go to other backends and break (`tracking: off`)"
        ));
    }
    lines
}

/// A backend that goes keeps its flows until they end.
fn removed(pool: &str, name: &str, leaving: &[Leaving]) -> String {
    let whole = format!("{pool}/{name}");
    match leaving.iter().find(|one| one.backend == whole) {
        None => format!("    - {name}"),
        Some(Leaving { entries: 0, .. }) => {
            format!(
                "    - {name}: no entry of the flow table names it; tracked flows stay there until they end"
            )
        }
        Some(Leaving { entries, .. }) => {
            format!(
                "    - {name}: {entries} entries of the flow table name it, whose flows stay there until they end"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tunnel;
    use crate::state::plan::Rewrapped;

    #[test]
    fn a_plan_says_whose_flows_break() {
        let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let web = PoolPlan {
            name: "web".to_owned(),
            change: Change::Changed,
            slots_moved: 16_384,
            added: text(&["be3"]),
            removed: text(&["be1", "be2"]),
            reweighted: Vec::new(),
            readdressed: Vec::new(),
            rewrapped: Some(Rewrapped {
                from: Tunnel::Ipip.to_string(),
                to: Tunnel::Gue {
                    port: 6080,
                    second_chance: true,
                }
                .to_string(),
            }),
            vips_protected: text(&["192.0.2.1:80/tcp"]),
            vips_unprotected: text(&["192.0.2.1:53/udp", "192.0.2.2:53/udp"]),
        };
        let leaving = |backend: &str, entries| Leaving {
            backend: backend.to_owned(),
            entries,
        };
        let lines = pool(&web, &[leaving("web/be1", 7), leaving("api/be2", 9)]);
        let want = [
            "~ pool web: 25.00 % of its slots move",
            "    + be3",
            "    - be1: 7 entries of the flow table name it, whose flows stay there until they end",
            "    - be2",
            "    ~ encap: gue to port 6080 with second chance instead of ipip",
            "    flows of 192.0.2.1:80/tcp are protected: they stay where they are",
            "    ! flows of 192.0.2.1:53/udp, 192.0.2.2:53/udp in the slots that move go to other backends and break \
             (`tracking: off`)",
        ];
        assert_eq!(lines, want);
    }
}
