//! Where the traffic comes from.

use std::time::Duration;

use crate::error::LabError;
use crate::netns::Netns;
use crate::topo::Family;
use crate::traffic::{Job, Load, Pace, Plan, Report};

/// After this long without an answer a request has failed.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Requests at a time where only their number was given.
const WORKERS: u32 = 32;
/// No run of a fixed number of requests takes longer.
const RUN_WITHIN: Duration = Duration::from_secs(300);

/// The client.
#[derive(Debug)]
pub struct Client {
    namespace: Netns,
    backends: Vec<String>,
}

impl Client {
    pub(crate) fn new(namespace: Netns, backends: Vec<String>) -> Self {
        Self { namespace, backends }
    }

    pub(crate) fn set_up(&self) -> Result<(), LabError> {
        // As many source ports as there are, and none blocked by a closed connection for longer than a second.
        self.namespace.sysctl(&[
            ("net/ipv4/ip_local_port_range", "1024 65535"),
            ("net/ipv4/tcp_tw_reuse", "1"),
        ])
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Netns {
        &self.namespace
    }

    /// A plan of these jobs with the lab's backends and the usual timeout.
    pub fn plan(&self, jobs: Vec<Job>) -> Plan {
        Plan {
            jobs,
            backends: self.backends.clone(),
            timeout: TIMEOUT,
        }
    }

    /// Starts jobs in the background.
    pub fn load(&self, jobs: Vec<Job>) -> Result<Load, LabError> {
        Load::start(&self.namespace, &self.plan(jobs))
    }

    /// Runs jobs that end by themselves to their end.
    pub fn run(&self, jobs: Vec<Job>) -> Result<Report, LabError> {
        self.load(jobs)?.join(RUN_WITHIN)
    }

    /// So many HTTP requests, each over a new connection.
    pub fn http(&self, requests: u32, family: Family) -> Result<Report, LabError> {
        self.run(vec![Job::http(
            family,
            Pace::Count {
                requests,
                workers: WORKERS,
            },
        )])
    }

    /// So many UDP echoes, each from a new socket.
    pub fn udp(&self, requests: u32, family: Family) -> Result<Report, LabError> {
        self.run(vec![Job::udp(
            family,
            Pace::Count {
                requests,
                workers: WORKERS,
            },
        )])
    }
}
