//! The backends as an operator changes them: in the configuration and by command.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::command;
use crate::error::LabError;
use crate::lab::Lab;
use crate::node_config::{BackendSection, NodeConfig};

/// A change is followed within this time, however busy the machine.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(15);

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// No new flows: `lbctl drain`.
    Drain(String),
    /// Into the configuration.
    Add(Vec<String>),
    /// Other weights in the configuration.
    Reweigh(Vec<(String, u16)>),
    /// Out of the configuration.
    Remove(String),
    /// Into the configuration again, and no longer drained.
    Return(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drain(name) => write!(f, "drain {name}"),
            Self::Add(names) => write!(f, "add {}", names.join(" and ")),
            Self::Reweigh(weights) => {
                let words = weights.iter().map(|(name, weight)| format!("{name} to {weight}"));
                write!(f, "weight of {}", words.collect::<Vec<_>>().join(", of "))
            }
            Self::Remove(name) => write!(f, "remove {name}"),
            Self::Return(name) => write!(f, "put {name} back"),
        }
    }
}

/// Which of the lab's backends are configured, with what weights.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Every backend of the lab, by node.
    full: Vec<NodeConfig>,
    present: BTreeSet<String>,
    weights: Vec<(String, u16)>,
}

impl Fleet {
    /// `full` is a configuration per node with every backend of the lab; the first `present` are configured at first.
    pub fn new(full: Vec<NodeConfig>, present: usize) -> Self {
        let names = full.first().map(|config| config.pools[0].backends.as_slice());
        let names = names.unwrap_or_default().iter().take(present);
        Self {
            present: names.map(|backend| backend.name.clone()).collect(),
            full,
            weights: Vec::new(),
        }
    }

    /// Has these configured too.
    pub(super) fn add(&mut self, names: Vec<String>) {
        self.present.extend(names);
    }

    /// The present configuration of node `index`.
    pub fn config(&self, index: usize) -> NodeConfig {
        let mut config = self.full[index].clone();
        for pool in &mut config.pools {
            pool.backends
                .retain(|backend| self.present.contains(&backend.name));
            pool.backends.iter_mut().for_each(|backend| self.weigh(backend));
        }
        config
    }

    fn weigh(&self, backend: &mut BackendSection) {
        let set = self.weights.iter().rfind(|(name, _)| *name == backend.name);
        backend.weight = set.map_or(backend.weight, |(_, weight)| *weight);
    }

    /// Makes the change on all nodes of the lab, and waits until every agent says that it follows.
    pub fn make(&mut self, lab: &mut Lab, step: &Step) -> Result<(), LabError> {
        match step {
            Step::Drain(name) => return self.order(lab, "drain", name),
            Step::Add(names) => self.add(names.clone()),
            Step::Reweigh(weights) => self.weights.extend(weights.iter().cloned()),
            Step::Remove(name) => {
                self.present.remove(name);
            }
            Step::Return(name) => {
                self.present.insert(name.clone());
            }
        }
        self.reload(lab)?;
        match step {
            Step::Return(name) => self.order(lab, "undrain", name),
            _ => Ok(()),
        }
    }

    /// Has every agent read its configuration again.
    pub fn reload(&self, lab: &mut Lab) -> Result<(), LabError> {
        for index in 0..self.full.len() {
            let yaml = self.config(index).to_yaml()?;
            let node = lab.node(index);
            let mark = node.reload(&yaml)?;
            node.wait_log("configuration reloaded", mark, FOLLOWED_WITHIN)?;
        }
        Ok(())
    }

    fn order(&self, lab: &Lab, order: &str, name: &str) -> Result<(), LabError> {
        for (node, config) in lab.nodes().iter().zip(&self.full) {
            for pool in &config.pools {
                let target = format!("{}/{name}", pool.name);
                command::check(node.lbctl_command()?.args([order, &target]))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topo::Topology;

    fn fleet() -> Fleet {
        Fleet::new(vec![NodeConfig::of(&Topology::star(1, &[1, 1, 1, 1]), 0)], 2)
    }

    fn backends(fleet: &Fleet) -> Vec<(String, u16)> {
        let pools = fleet.config(0).pools;
        let of = |pool: usize| pools[pool].backends.iter().map(|b| (b.name.clone(), b.weight));
        assert_eq!(of(0).collect::<Vec<_>>(), of(1).collect::<Vec<_>>());
        of(0).collect()
    }

    #[test]
    fn the_configuration_has_who_is_present_with_the_last_weight() {
        let mut fleet = fleet();
        let named = |name: &str, weight| (name.to_owned(), weight);
        assert_eq!(backends(&fleet), [named("be1", 1), named("be2", 1)]);
        fleet.present.insert("be4".to_owned());
        fleet.present.remove("be1");
        fleet.weights = vec![named("be4", 3), named("be2", 5), named("be4", 7)];
        assert_eq!(backends(&fleet), [named("be2", 5), named("be4", 7)]);
    }
}
