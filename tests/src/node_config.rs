//! The configuration of a node, as far as labs change it; written as the YAML that `lbd` reads.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

use crate::error::LabError;
use crate::topo::{ECHO_PORT, Family, HTTP_PORT, Topology};

/// The hash key of all labs' groups: fixed, so that a failed run can be repeated.
const GROUP_KEY: &str = "000102030405060708090a0b0c0d0e0f";

/// Where the nodes listen for each other.
pub const PEER_PORT: u16 = 7946;

/// How soon nodes notice that a peer is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// From one heartbeat to the next.
    pub heartbeat: Duration,
    /// A peer that is silent for so long is dead.
    pub dead_after: Duration,
    /// A node that is silent for so long is no member.
    pub withdraw_after: Duration,
    /// For how long a node tries to be admitted.
    pub join_within: Duration,
}

impl Default for Times {
    /// For labs: the router notices within a tenth of a second, so a second is enough to be no member any more. On two
    /// cores under load a process may not run for 50 ms, so dead takes longer than in service.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(20),
            dead_after: Duration::from_millis(300),
            withdraw_after: Duration::from_secs(1),
            join_within: Duration::from_secs(30),
        }
    }
}

/// A whole configuration file.
#[derive(Clone, Debug, Serialize)]
#[expect(
    missing_docs,
    reason = "fields are named as in the file; dist/lb.example.yaml explains them"
)]
pub struct NodeConfig {
    pub node: NodeSection,
    pub group: GroupSection,
    pub pools: Vec<PoolSection>,
    pub vips: Vec<VipSection>,
}

/// `node:`
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "as above")]
pub struct NodeSection {
    pub name: String,
    pub interfaces: Vec<String>,
    pub attach: String,
}

/// `group:`
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "as above")]
pub struct GroupSection {
    pub nodes: Vec<MemberSection>,
    pub key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peering: Option<PeeringSection>,
}

/// An element of `nodes:`: a name alone, or with the address at which the others reach the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "as above")]
pub enum MemberSection {
    Name(String),
    Peer { name: String, address: SocketAddr },
}

/// `peering:`; durations as the file has them, such as `50ms`, or the defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "as above")]
pub struct PeeringSection {
    /// The node's folder of certificates; a relative path starts at the configuration's folder.
    pub pki: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withdraw_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_within: Option<String>,
}

/// An element of `pools:`
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "as above")]
pub struct PoolSection {
    pub name: String,
    pub backends: Vec<BackendSection>,
    #[serde(flatten)]
    pub tunnel: TunnelSection,
    /// Any fields of `health:`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encap: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_chance: Option<bool>,
}

/// How a pool's packets are wrapped.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "as above")]
pub struct TunnelSection {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encap: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_chance: Option<bool>,
}

/// An element of a pool's `backends:`
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "as above")]
pub struct BackendSection {
    pub name: String,
    pub address: IpAddr,
    pub weight: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<ViaSection>,
}

/// `via:`
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "as above")]
pub struct ViaSection {
    pub interface: String,
    pub mac: String,
}

/// An element of `vips:`
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "as above")]
pub struct VipSection {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: &'static str,
    pub pool: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracking: Option<&'static str>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<u32>,
}

impl NodeConfig {
    /// Node `index` of the topology: all VIPs of the lab over all backends, one pool per family.
    pub fn of(topology: &Topology, index: usize) -> Self {
        let interfaces = topology.node_interfaces(index);
        Self {
            node: NodeSection {
                name: Topology::node_name(index),
                interfaces: interfaces.into_iter().map(str::to_owned).collect(),
                attach: "auto".to_owned(),
            },
            group: GroupSection {
                nodes: names(topology).map(MemberSection::Name).collect(),
                key: GROUP_KEY.to_owned(),
                peering: None,
            },
            pools: Family::BOTH.map(|family| pool(topology, family)).into(),
            vips: Family::BOTH.into_iter().flat_map(vips).collect(),
        }
    }

    /// Sets tracking (`on-change`, `always` or `off`) and idle timeout of all VIPs, those for UDP too.
    pub fn track(&mut self, tracking: &'static str, idle_timeout: u32) {
        for vip in &mut self.vips {
            (vip.tracking, vip.idle_timeout) = (Some(tracking), Some(idle_timeout));
        }
    }

    /// Lets the nodes talk to each other at their own addresses. Certificates are in `NAME.pki` beside the file, where
    /// [`crate::LabBuilder`] puts them.
    pub fn peer(&mut self, topology: &Topology, times: &Times) {
        let ms = |time: Duration| Some(format!("{}ms", time.as_millis()));
        let member = |(index, name)| MemberSection::Peer {
            name,
            address: (topology.node_address(index, Family::V4), PEER_PORT).into(),
        };
        self.group.nodes = names(topology).enumerate().map(member).collect();
        self.group.peering = Some(PeeringSection {
            pki: pki_folder(&self.node.name),
            heartbeat: ms(times.heartbeat),
            dead_after: ms(times.dead_after),
            withdraw_after: ms(times.withdraw_after),
            join_within: ms(times.join_within),
        });
    }

    /// Sends to the backends of all pools over GUE, with or without second chances.
    pub fn gue(&mut self, second_chance: bool) {
        for pool in &mut self.pools {
            (pool.encap, pool.second_chance) = (Some("gue"), Some(second_chance));
        }
    }

    /// The file's text.
    pub fn to_yaml(&self) -> Result<String, LabError> {
        Ok(serde_yaml::to_string(self)?)
    }
}

fn names(topology: &Topology) -> impl Iterator<Item = String> {
    (0..topology.nodes.len()).map(Topology::node_name)
}

/// The folder of a node's certificates, beside its configuration file.
pub(crate) fn pki_folder(node: &str) -> String {
    format!("{node}.pki")
}

fn pool_name(family: Family) -> String {
    format!("web{}", family.digit())
}

fn pool(topology: &Topology, family: Family) -> PoolSection {
    let backend = |(index, weight): (usize, &u16)| BackendSection {
        name: Topology::backend_name(index),
        address: topology.backend_address(index, family),
        weight: *weight,
        via: None,
    };
    PoolSection {
        name: pool_name(family),
        backends: topology.weights.iter().enumerate().map(backend).collect(),
        tunnel: TunnelSection::default(),
        health: None,
        encap: None,
        second_chance: None,
    }
}

fn vips(family: Family) -> [VipSection; 3] {
    [("tcp", HTTP_PORT), ("tcp", ECHO_PORT), ("udp", ECHO_PORT)].map(|(protocol, port)| VipSection {
        address: family.vip(port).ip(),
        port,
        protocol,
        pool: pool_name(family),
        tracking: None,
        idle_timeout: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_yaml_reads_back_as_what_was_meant() {
        let yaml = NodeConfig::of(&Topology::star(2, &[1, 2]), 1)
            .to_yaml()
            .expect("yaml");
        let value: serde_json::Value = serde_yaml::from_str(&yaml).expect("it is YAML");
        assert_eq!(value["node"]["name"], "lb2");
        assert_eq!(value["group"]["key"], GROUP_KEY, "a string, not a number: {yaml}");
        assert_eq!(value["pools"][1]["backends"][1]["address"], "fd00:9:22::2");
        assert_eq!(value["pools"][0]["backends"][1]["weight"], 2);
        assert_eq!(value["vips"].as_array().map(Vec::len), Some(6));
        assert_eq!(value["group"]["nodes"][1], "lb2");
        assert!(value["group"]["peering"].is_null() && value["pools"][0]["encap"].is_null());
    }

    #[test]
    fn nodes_that_talk_have_addresses_and_certificates() {
        let topology = Topology::star(2, &[1]);
        let mut config = NodeConfig::of(&topology, 1);
        config.peer(&topology, &Times::default());
        config.gue(true);
        let yaml = config.to_yaml().expect("yaml");
        let value: serde_json::Value = serde_yaml::from_str(&yaml).expect("it is YAML");
        let first = serde_json::json!({"name": "lb1", "address": "10.9.11.2:7946"});
        assert_eq!(value["group"]["nodes"][0], first);
        assert_eq!(value["group"]["peering"]["pki"], "lb2.pki");
        assert_eq!(value["group"]["peering"]["withdraw_after"], "1000ms");
        assert_eq!(value["pools"][1]["encap"], "gue");
        assert_eq!(value["pools"][1]["second_chance"], true);
    }
}
