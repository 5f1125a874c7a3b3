//! Faults of a node: no power, a stop of its agent, a slow line to its peers.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::lb::Node;
use crate::command;
use crate::error::{IoContext, LabError};
use crate::topo::{Link, Topology};
use crate::wait;

/// A node says that it is ready within this time: a join waits for peers, phases and snapshots.
const READY_WITHIN: Duration = Duration::from_secs(40);

impl Node {
    /// The agent is killed, the program taken off and everything pinned is gone, as without power. Files stay, as on a
    /// disk.
    pub(crate) fn fall(&mut self) -> Result<(), LabError> {
        if self.pid().is_some() {
            self.kill9()?;
        }
        self.remove_pins()
    }

    /// Takes its links down.
    pub(crate) fn unplug(&self, links: &[Link]) -> Result<(), LabError> {
        let down = links
            .iter()
            .map(|link| format!("link set dev {} down", link.interface));
        self.namespace().ip(&down.collect::<Vec<_>>())
    }

    /// Links up, with addresses and routes (which a link that goes down loses in part), and a new agent with new maps.
    /// Doesn't wait until it is ready.
    pub(crate) fn rise(&mut self, topology: &Topology, links: &[Link]) -> Result<(), LabError> {
        let flush = links
            .iter()
            .map(|link| format!("addr flush dev {}", link.interface));
        let up = links.iter().flat_map(|link| topology.host_lines(link));
        self.namespace().ip(&flush.chain(up).collect::<Vec<_>>())?;
        self.spawn()
    }

    /// Removes what it has pinned: the kernel lets go of links, programs and maps.
    fn remove_pins(&self) -> Result<(), LabError> {
        let root = self.pin_root();
        match fs::remove_dir_all(root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.context(|| format!("remove {}", root.display())),
        }
    }

    /// Whether it may be sent traffic: nodes that talk say so by `lbctl ready`, others once their data plane is filled.
    pub fn is_ready(&mut self) -> Result<bool, LabError> {
        if !self.says_ready()? {
            return Ok(false);
        }
        if self.config().group.peering.is_none() {
            return Ok(true);
        }
        Ok(self.lbctl(&["ready"])?.status.success())
    }

    /// Waits until [`Node::is_ready`], as the exit hook for a router does. Returns how long that took.
    pub fn wait_in_service(&mut self) -> Result<Duration, LabError> {
        let start = Instant::now();
        let what = format!("{} is ready", self.name());
        wait::until_ok(READY_WITHIN, &what, || self.is_ready())?;
        Ok(start.elapsed())
    }

    /// The agent gets no CPU until [`Node::thaw`]; the data plane goes on.
    pub fn freeze(&self) -> Result<(), LabError> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<(), LabError> {
        self.signal(Signal::CONT)
    }

    /// What the node's own processes send, so above all to its peers, leaves at this rate (as tc has it: `500kbit`), or at full
    /// speed for `None`. What the program forwards passes by the queue and isn't touched.
    pub fn slow(&self, rate: Option<&str>) -> Result<(), LabError> {
        let mut tc = self.namespace().command("tc");
        match rate {
            Some(rate) => tc
                .args(["qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", rate])
                .args(["burst", "16kb", "latency", "1s"]),
            None => tc.args(["qdisc", "del", "dev", "eth0", "root"]),
        };
        command::check(&mut tc).map(drop)
    }
}
