//! A group of nodes as the scenarios about them have it: what guards its connections, and how an operator changes it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::fleet::Fleet;
use crate::command;
use crate::error::{IoContext, LabError};
use crate::host::{Node, Spread};
use crate::lab::{Lab, LabBuilder};
use crate::node_config::{NodeConfig, Times};
use crate::topo::Topology;
use crate::wait;

/// Configured at first; one of them is drained, the rest of [`BACKENDS`] is added.
const AT_FIRST: usize = 6;
/// In the lab.
const BACKENDS: usize = 8;
/// The backend that is drained.
const DRAINED: &str = "be2";
/// What a change may take, also one that waits for a node that is gone or for the end of a phase.
const CHANGED_WITHIN: Duration = Duration::from_secs(60);

/// What keeps connections from breaking; a control leaves something out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Guards {
    /// Nodes have addresses: they talk, replicate, and change and join as one.
    pub replication: bool,
    /// VIPs are tracked on change.
    pub tracking: bool,
    /// GUE, with a second backend named in packets.
    pub second_chance: bool,
}

impl Guards {
    /// As in service.
    pub const ALL: Self = Self {
        replication: true,
        tracking: true,
        second_chance: true,
    };
    /// The controls.
    pub const CONTROLS: [Self; 5] = [
        Self {
            replication: false,
            ..Self::ALL
        },
        Self {
            tracking: false,
            ..Self::ALL
        },
        Self {
            second_chance: false,
            ..Self::ALL
        },
        Self::ALONE,
        Self {
            tracking: false,
            second_chance: false,
            ..Self::ALL
        },
    ];
    /// Nodes that track, each for itself, and no second chance: what must break.
    pub const ALONE: Self = Self {
        replication: false,
        tracking: true,
        second_chance: false,
    };

    /// For tables: `all`, or what is missing.
    pub fn label(self) -> String {
        let parts = [
            (self.replication, "replication"),
            (self.tracking, "tracking"),
            (self.second_chance, "second chance"),
        ];
        let missing: Vec<&str> = parts
            .iter()
            .filter(|(on, _)| !on)
            .map(|(_, name)| *name)
            .collect();
        match missing.as_slice() {
            [] => "everything on".to_owned(),
            missing => format!("without {}", missing.join(" and ")),
        }
    }
}

/// A group to be made.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Nodes.
    pub nodes: usize,
    /// What guards it.
    pub guards: Guards,
    /// The router.
    pub spread: Spread,
    /// Of all VIPs, in seconds: longer than the connections' silence.
    pub idle_timeout: u32,
    /// How soon silent peers are noticed.
    pub times: Times,
}

/// The operator of a running group.
#[derive(Debug)]
pub struct Operator {
    fleet: Fleet,
    together: bool,
    nodes: usize,
}

/// A change that is being made.
#[derive(Debug)]
pub struct Change {
    /// When the first command was given.
    pub begun: Instant,
    orders: Vec<Given>,
}

/// What one node is told.
#[derive(Debug)]
struct Given {
    node: usize,
    /// Nobody waits for it any more.
    moot: Arc<AtomicBool>,
    /// Its end.
    thread: thread::JoinHandle<Result<Instant, LabError>>,
}

impl Setting {
    /// The lab, and who operates it.
    pub fn lab(&self, name: &str) -> (LabBuilder, Operator) {
        let weights = vec![1; BACKENDS];
        let topology = Topology::star(self.nodes, &weights);
        let full = (0..self.nodes).map(|index| {
            let mut config = NodeConfig::of(&topology, index);
            let tracking = if self.guards.tracking { "on-change" } else { "off" };
            config.track(tracking, self.idle_timeout);
            if self.guards.replication {
                config.peer(&topology, &self.times);
            }
            if self.guards.second_chance {
                config.gue(true);
            }
            config
        });
        let fleet = Fleet::new(full.collect(), AT_FIRST);
        let first = (0..self.nodes).map(|index| fleet.config(index)).collect();
        let builder = Lab::builder(name)
            .nodes(self.nodes)
            .weights(&weights)
            .spread(self.spread)
            .configs(first);
        let operator = Operator {
            fleet,
            together: self.guards.replication,
            nodes: self.nodes,
        };
        (builder, operator)
    }
}

impl Operator {
    /// Whether the nodes are one group.
    pub const fn is_together(&self) -> bool {
        self.together
    }

    /// Begins 'drain 1, add 2 backends' at this moment, or now if it is over: on the first of `live` in a group, on each of them where nodes act alone. Whoever is not
    /// among them has it in its file when it comes back, if it acts alone.
    pub fn drain_and_add(&mut self, lab: &Lab, live: &[usize], at: Instant) -> Result<Change, LabError> {
        self.fleet
            .add((AT_FIRST..BACKENDS).map(Topology::backend_name).collect());
        let told = if self.together { &live[..1] } else { live };
        let mut orders = Vec::new();
        for index in 0..self.nodes {
            let node = &lab.nodes()[index];
            let yaml = self.fleet.config(index).to_yaml()?;
            if told.contains(&index) {
                orders.push((index, commands(node, &yaml)?));
            } else if !self.together {
                node.write_config(&yaml)?;
            }
        }
        let begun = at.max(Instant::now());
        let start = |(node, commands): (usize, Vec<Command>)| {
            let moot = Arc::new(AtomicBool::new(false));
            let thread = thread::spawn({
                let moot = Arc::clone(&moot);
                move || {
                    thread::sleep(begun.saturating_duration_since(Instant::now()));
                    commands
                        .into_iter()
                        .try_for_each(|command| patiently(command, &moot))
                        .map(|()| Instant::now())
                }
            });
            Given { node, moot, thread }
        };
        Ok(Change {
            begun,
            orders: orders.into_iter().map(start).collect(),
        })
    }
}

/// Whether a node tracks slots.
pub(super) fn is_tracking(node: &Node) -> Result<bool, LabError> {
    let rings = node.lbctl_json(&["ring"])?;
    let pools = rings["pools"].as_array().expect("a list");
    Ok(pools.iter().any(|pool| pool["tracked"] != 0))
}

/// Whether a node has moved all slots of the drained backend in some pool.
pub(super) fn has_drained(node: &Node) -> Result<bool, LabError> {
    for pool in &node.config().pools {
        let rows = node.lbctl_json(&["ring", &pool.name, "--by-backend"])?;
        let rows = rows["backends"].as_array().expect("a list");
        let is_there = |row: &serde_json::Value| row["backend"] == DRAINED && row["ranges"] != "";
        if !rows.iter().any(is_there) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Change {
    /// Waits until it is made, on all nodes but those in `dead`. Returns the time that it took from its begin.
    pub fn wait(self, dead: &[usize]) -> Result<Duration, LabError> {
        for given in &self.orders {
            given.moot.store(dead.contains(&given.node), Ordering::Relaxed);
        }
        let mut end = self.begun;
        for given in self.orders {
            let made = given
                .thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if !dead.contains(&given.node) {
                end = end.max(made?);
            }
        }
        Ok(end - self.begun)
    }
}

/// The drain first: it is one order, and the file takes longer.
fn commands(node: &Node, yaml: &str) -> Result<Vec<Command>, LabError> {
    let file: PathBuf = node.config_file().with_extension("change.yaml");
    fs::write(&file, yaml).context(|| format!("write {}", file.display()))?;
    let mut commands = Vec::new();
    for pool in &node.config().pools {
        let mut drain = node.lbctl_command()?;
        drain.args(["drain", &format!("{}/{DRAINED}", pool.name)]);
        commands.push(drain);
    }
    let mut apply = node.lbctl_command()?;
    apply.args(["config", "apply"]).arg(file);
    commands.push(apply);
    Ok(commands)
}

/// An agent refuses what the group can't decide at this moment; an operator tries again.
fn patiently(mut command: Command, moot: &AtomicBool) -> Result<(), LabError> {
    let mut last = None;
    let what = command::line(&command);
    let done = wait::until_ok(CHANGED_WITHIN, &what, || match command::check(&mut command) {
        Ok(_) => Ok(true),
        Err(error @ LabError::Failed { .. }) => {
            thread::sleep(Duration::from_millis(100));
            last = Some(error);
            Ok(moot.load(Ordering::Relaxed))
        }
        Err(error) => Err(error),
    });
    done.map_err(|error| last.unwrap_or(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_says_what_it_lacks() {
        assert_eq!(Guards::ALL.label(), "everything on");
        assert_eq!(Guards::ALONE.label(), "without replication and second chance");
        let labels: std::collections::BTreeSet<_> = Guards::CONTROLS.map(Guards::label).into();
        assert_eq!(labels.len(), Guards::CONTROLS.len());
        assert!(!Guards::CONTROLS.contains(&Guards::ALL));
    }

    #[test]
    fn guards_are_in_the_configuration() {
        let setting = Setting {
            nodes: 3,
            guards: Guards::ALL,
            spread: Spread::Resilient,
            idle_timeout: 20,
            times: Times::default(),
        };
        let config = |guards| Setting { guards, ..setting }.lab("x").1.fleet.config(1);
        let all = config(Guards::ALL);
        assert!(all.group.peering.is_some() && all.pools[0].encap.is_some());
        assert_eq!(all.pools[0].backends.len(), AT_FIRST);
        let alone = config(Guards::ALONE);
        assert!(alone.group.peering.is_none() && alone.pools[0].encap.is_none());
    }
}
