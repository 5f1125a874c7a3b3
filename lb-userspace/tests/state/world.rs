//! Configurations and network states, small enough that capacities are often full.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::id::stable;
use lb_userspace::model::{
    Attach, Backend, Capacity, Encap, Group, Model, Node, Pool, Protocol, Tracking, Vip,
};
use lb_userspace::net::{Hop, NextHop, Why};
use proptest::prelude::*;

const POOLS: usize = 4;
const BACKENDS: usize = 5;
const VIPS: usize = 6;

/// Fits one backend less and one pool less than there are names for, so that a change may fill them to the brim.
const CAPACITY: Capacity = Capacity {
    pools: 3,
    vips: 4,
    backends: 11,
    flows: 1024,
};

/// A configuration by the places of names: pool → backend → (weight, which of two addresses).
#[derive(Clone, Debug)]
pub(super) struct Config {
    pools: BTreeMap<usize, BTreeMap<usize, (u16, bool)>>,
    vips: BTreeMap<usize, usize>,
}

/// What resolving a backend gives, by its pool and name.
#[derive(Clone, Debug)]
pub(super) struct Network(BTreeMap<u64, Way>);

/// One backend's next hop.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// By one of two interfaces, to one of two stations.
    Found { interface: u32, station: u8 },
    /// Asked for, not answered.
    Asked,
    /// Given up.
    Failed,
    /// No route.
    Lost,
}

/// A configuration, the network that it meets, and how many writes an agent lives.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) config: Config,
    pub(super) network: Network,
    pub(super) dies_after: usize,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 2..7)
}

fn step() -> impl Strategy<Value = Step> {
    (config(), network(), 0_usize..12).prop_map(|(config, network, dies_after)| Step {
        config,
        network,
        dies_after,
    })
}

fn config() -> impl Strategy<Value = Config> {
    let backend = (0_u16..4, prop::bool::weighted(0.2));
    let backends = prop::collection::btree_map(0..BACKENDS, backend, 1..=BACKENDS);
    let pools = prop::collection::btree_map(0..POOLS, backends, 1..=CAPACITY.pools as usize);
    let vips = prop::collection::btree_map(0..VIPS, any::<usize>(), 0..=CAPACITY.vips as usize);
    (pools, vips).prop_map(|(mut pools, mut vips)| {
        let mut room = CAPACITY.usable_backends() as usize;
        let mut others = pools.len();
        for backends in pools.values_mut() {
            others -= 1;
            while backends.len() > room - others {
                backends.pop_last();
            }
            room -= backends.len();
            if backends.values().all(|(weight, _)| *weight == 0) {
                backends.first_entry().expect("never empty").get_mut().0 = 1;
            }
        }
        let names: Vec<usize> = pools.keys().copied().collect();
        for pool in vips.values_mut() {
            *pool = names[*pool % names.len()];
        }
        Config { pools, vips }
    })
}

fn network() -> impl Strategy<Value = Network> {
    let way = prop_oneof![
        6 => (2_u32..4, 0_u8..2).prop_map(|(interface, station)| Way::Found { interface, station }),
        1 => Just(Way::Asked),
        1 => Just(Way::Failed),
        1 => Just(Way::Lost),
    ];
    prop::collection::vec(way, POOLS * BACKENDS).prop_map(|ways| {
        let ids = (0..POOLS).flat_map(|pool| (0..BACKENDS).map(move |b| id(pool, b)));
        Network(ids.zip(ways).collect())
    })
}

impl Network {
    /// Next hops in the model's order.
    pub(super) fn hops(&self, model: &Model) -> Vec<NextHop> {
        let backends = model.pools.iter().flat_map(|p| &p.backends);
        backends.map(|b| hop(self.0[&b.id], b.address)).collect()
    }
}

/// The next hop that `way` stands for.
pub(super) fn hop(way: Way, address: IpAddr) -> NextHop {
    let name = |interface: u32| format!("eth{interface}");
    NextHop::Unresolved(match way {
        Way::Found { interface, station } => {
            return NextHop::Resolved(Hop {
                ifindex: interface,
                interface: name(interface),
                destination_mac: [2, 0, 0, 0, 1, station],
                source_mac: [2, 0, 0, 0, 0, interface as u8],
                mtu: 1600,
                source: match address {
                    IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
                    IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
                },
            });
        }
        Way::Asked => Why::NoNeighbour {
            address,
            interface: name(2),
            ifindex: 2,
        },
        Way::Failed => Why::NeighbourFailed {
            address,
            interface: name(2),
        },
        Way::Lost => Why::NoRoute,
    })
}

fn pool_name(pool: usize) -> String {
    format!("pool{pool}")
}

fn backend_name(backend: usize) -> String {
    format!("be{backend}")
}

/// The stable identity of a backend.
pub(super) fn id(pool: usize, backend: usize) -> u64 {
    stable(&pool_name(pool), &backend_name(backend))
}

fn backend(pool: usize, backend: usize, (weight, second): (u16, bool)) -> Backend {
    let last = (backend + 1) as u8;
    // Even pools are IPv4, odd ones IPv6.
    let address = if pool.is_multiple_of(2) {
        Ipv4Addr::new(198, 51, 100 + u8::from(second), 16 * pool as u8 + last).into()
    } else {
        Ipv6Addr::new(
            0x2001,
            0xdb8,
            u16::from(second),
            0,
            0,
            0,
            pool as u16,
            last.into(),
        )
        .into()
    };
    Backend {
        name: backend_name(backend).parse().expect("it is valid"),
        id: id(pool, backend),
        address,
        weight,
        via: None,
    }
}

/// A model with these pools and VIPs.
pub(super) fn model(capacity: Capacity, encap: Encap, pools: Vec<Pool>, vips: Vec<Vip>) -> Model {
    let node: lb_userspace::model::Name = "lb1".parse().expect("it is valid");
    Model {
        path: "lb.yaml".into(),
        node: Node {
            name: node.clone(),
            interfaces: vec!["eth2".into()],
            attach: Attach::Auto,
        },
        group: Group {
            nodes: vec![node],
            key: None,
            max_tracked: lb_userspace::model::Group::MAX_TRACKED,
            peering: None,
        },
        capacity,
        encap,
        pools,
        vips,
        metrics: None,
    }
}

/// The valid model of a configuration.
pub(super) fn model_of(config: &Config) -> Model {
    let pools = config.pools.iter().map(|(&pool, backends)| Pool {
        name: pool_name(pool).parse().expect("it is valid"),
        backends: backends
            .iter()
            .map(|(&b, &facts)| backend(pool, b, facts))
            .collect(),
        health: None,
        tunnel: lb_userspace::model::Tunnel::Ipip,
    });
    let position = |name: &usize| config.pools.keys().position(|p| p == name).expect("it is there");
    let vips = config.vips.iter().map(|(&vip, pool)| Vip {
        // Pairs share an address: one port each, and every third VIP takes every port.
        address: Ipv4Addr::new(203, 0, 113, (vip / 2) as u8).into(),
        port: if vip % 3 == 0 { 0 } else { 80 + vip as u16 },
        protocol: if vip % 4 < 2 { Protocol::Tcp } else { Protocol::Udp },
        pool: position(pool),
        tracking: Tracking::OnChange,
        idle_timeout: Vip::DEFAULT_IDLE,
    });
    let model = model(CAPACITY, Encap::default(), pools.collect(), vips.collect());
    let ids: BTreeSet<u64> = model
        .pools
        .iter()
        .flat_map(|p| &p.backends)
        .map(|b| b.id)
        .collect();
    assert!(ids.len() <= CAPACITY.usable_backends() as usize);
    model
}
