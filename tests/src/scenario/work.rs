//! The traffic that a change must not hurt.

use std::time::Duration;

use crate::error::LabError;
use crate::lab::Lab;
use crate::topo::Family;
use crate::traffic::{Job, Kind, Load, Pace, Plan, Report};

/// A connection that gets no answer for so long has failed: longer than it takes until a dead backend's successor
/// answers a retransmission, so that the end of a connection shows as what it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections open much faster than this; a flood of lost SYNs would need their retransmissions.
const OPENS_WITHIN: Duration = Duration::from_secs(60);

/// How much traffic; all of it half over IPv4 and half over IPv6.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Long-lived TCP connections.
    pub connections: u32,
    /// From one line to the next of each.
    pub every: Duration,
    /// HTTP requests a second, each over a connection of its own.
    pub new_per_second: u32,
    /// UDP flows with a datagram a second.
    pub flows: u32,
}

/// Traffic that runs. What is held open and what is new are separate processes and end separately.
#[derive(Debug)]
pub struct Traffic {
    /// Connections and flows.
    pub held: Load,
    /// New connections.
    pub new: Load,
}

impl Work {
    /// Starts everything, and waits until all long-lived connections have had their first answer.
    pub fn start(&self, lab: &Lab) -> Result<Traffic, LabError> {
        let half = |n: u32| [n.div_ceil(2), n / 2];
        let second = Duration::from_secs(1);
        let mut held = Vec::new();
        for (family, connections) in Family::BOTH.into_iter().zip(half(self.connections)) {
            held.push(Job::lines(family, connections, self.every));
        }
        for (family, flows) in Family::BOTH.into_iter().zip(half(self.flows)) {
            held.push(Job::flows(family, flows, second));
        }
        let rates = Family::BOTH.into_iter().zip(half(self.new_per_second));
        let new = rates.map(|(family, per_second)| Job::http(family, Pace::Rate { per_second }));
        let client = lab.client();
        let plan = Plan {
            timeout: PATIENCE,
            ..client.plan(held)
        };
        let mut traffic = Traffic {
            held: Load::start(client.namespace(), &plan)?,
            new: client.load(new.collect())?,
        };
        let all = u64::from(self.connections) + u64::from(self.flows);
        traffic.held.wait_held(all, OPENS_WITHIN)?;
        Ok(traffic)
    }
}

impl Traffic {
    /// Ends both: figures of what was held, and of what was new.
    pub fn stop(self) -> Result<(Report, Report), LabError> {
        Ok((self.held.stop()?, self.new.stop()?))
    }

    /// Broken and moved connections up to a moment ago.
    pub fn broken(&self) -> (u64, u64) {
        let held = self.held.latest().held(Kind::Lines);
        (held.broken, held.moved)
    }
}
