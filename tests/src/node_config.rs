//! The configuration of a node, as far as labs change it; written as the YAML that `lbd` reads.

use std::net::IpAddr;

use serde::Serialize;

use crate::error::LabError;
use crate::topo::{ECHO_PORT, Family, HTTP_PORT, Topology};

/// The hash key of all labs' groups: fixed, so that a failed run can be repeated.
const GROUP_KEY: &str = "000102030405060708090a0b0c0d0e0f";

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
    pub nodes: Vec<String>,
    pub key: String,
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
                nodes: (0..topology.nodes.len()).map(Topology::node_name).collect(),
                key: GROUP_KEY.to_owned(),
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

    /// The file's text.
    pub fn to_yaml(&self) -> Result<String, LabError> {
        Ok(serde_yaml::to_string(self)?)
    }
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
    }
}
