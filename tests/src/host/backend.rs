//! A server with the VIPs on its loopback interface, behind `lb_decap`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::binary;
use crate::command;
use crate::error::LabError;
use crate::netns::Netns;
use crate::process::Process;
use crate::serve;
use crate::topo::{VIP4, VIP6};

/// All of the lab's hosts may encapsulate: nodes, and backends that send packets on to each other.
const ALLOW: [&str; 2] = ["10.9.0.0/16", "fd00:9::/32"];
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// One backend.
#[derive(Debug)]
pub struct Backend {
    name: String,
    weight: u16,
    addresses: Vec<IpAddr>,
    namespace: Netns,
    pins: PathBuf,
    log: PathBuf,
    servers: Option<Process>,
}

impl Backend {
    /// `addresses` are its own, beside the VIPs; `pins` is its folder in bpffs, `dir` the lab's for logs.
    pub(crate) fn new(
        (name, weight): (String, u16),
        addresses: Vec<IpAddr>,
        namespace: Netns,
        pins: PathBuf,
        dir: &Path,
    ) -> Self {
        let log = dir.join(format!("{name}.log"));
        Self {
            name,
            weight,
            addresses,
            namespace,
            pins,
            log,
            servers: None,
        }
    }

    pub(crate) fn lines() -> Vec<String> {
        vec![
            "link set dev lo up".to_owned(),
            format!("addr add {VIP4}/32 dev lo"),
            format!("addr add {VIP6}/128 dev lo nodad"),
        ]
    }

    pub(crate) fn set_sysctls(&self) -> Result<(), LabError> {
        self.namespace.sysctl(&[
            ("net/core/somaxconn", "65535"),
            ("net/ipv4/tcp_max_syn_backlog", "65535"),
        ])
    }

    /// `be1`, `be2` and so on; what its servers call themselves.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder on bpffs.
    pub fn pin_root(&self) -> &Path {
        &self.pins
    }

    /// Its weight in the pools at the lab's start.
    pub fn weight(&self) -> u16 {
        self.weight
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Netns {
        &self.namespace
    }

    /// Lets `lb_decap` pop the outer headers of packets that come in at `eth0`.
    pub fn attach_decap(&self) -> Result<(), LabError> {
        self.attach_decap_to("eth0")
    }

    /// The same at another interface.
    pub fn attach_decap_to(&self, interface: &str) -> Result<(), LabError> {
        let mut command = self.namespace.command(binary::find("lbctl")?);
        command
            .arg("--pin-root")
            .arg(&self.pins)
            .args(["decap", "attach", "--interface", interface]);
        for prefix in ALLOW {
            command.args(["--allow", prefix]);
        }
        command::check(&mut command).map(drop)
    }

    /// Takes `lb_decap` off again: packets keep their outer headers.
    pub fn detach_decap(&self) -> Result<(), LabError> {
        let mut command = self.namespace.command(binary::find("lbctl")?);
        command
            .arg("--pin-root")
            .arg(&self.pins)
            .args(["decap", "detach", "--interface", "eth0"]);
        command::check(&mut command).map(drop)
    }

    /// Starts its servers; [`Backend::wait_ready`] says when they listen.
    pub fn start(&mut self) -> Result<(), LabError> {
        let mut command = self.namespace.command(binary::find("lb-lab")?);
        command.args(["serve", "--name", &self.name]);
        // Health checks ask at its own addresses.
        for address in self.addresses.iter().chain(&[VIP4.into(), VIP6.into()]) {
            command.args(["--address", &address.to_string()]);
        }
        self.servers = Some(Process::spawn(&self.name, command, &self.log)?);
        Ok(())
    }

    /// Waits until all servers listen.
    pub fn wait_ready(&mut self) -> Result<(), LabError> {
        let name = &self.name;
        let servers = self
            .servers
            .as_mut()
            .ok_or_else(|| LabError::NotRunning { name: name.clone() })?;
        servers.wait_ready(serve::READY, STARTS_WITHIN)
    }

    /// Ends its servers at once: connections are reset, new ones refused.
    pub fn kill9(&mut self) -> Result<(), LabError> {
        let name = &self.name;
        self.servers
            .take()
            .ok_or_else(|| LabError::NotRunning { name: name.clone() })?
            .kill9()
    }

    /// Whether it refuses work: [`serve::HEALTH_PATH`] is answered by 503, everything else as ever.
    pub fn refuse(&self, refuses: bool) -> Result<(), LabError> {
        let signal = if refuses { Signal::USR1 } else { Signal::USR2 };
        let name = &self.name;
        self.servers
            .as_ref()
            .ok_or_else(|| LabError::NotRunning { name: name.clone() })?
            .signal(signal)
    }

    pub(crate) fn release(&mut self) {
        if let Some(servers) = &mut self.servers {
            servers.release();
        }
    }
}
