//! A configuration's text, all the way to what the maps should hold.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use lb_common::info::next_hop;
use lb_common::slot::NO_BACKEND;
use lb_userspace::config;
use lb_userspace::model::Model;
use lb_userspace::net::{Hop, NextHop, Target, Why};
use lb_userspace::state::contents::Contents;
use lb_userspace::state::diff::diff;
use lb_userspace::state::ids::assign;
use lb_userspace::state::reduce::{World, reduce, targets};
use lb_userspace::state::ring::Cache;
use lb_userspace::state::standing::Standings;

/// Rings take milliseconds each; models with more pools are reduced no further.
const POOLS: usize = 3;

/// Digits in a row that may be the group's key; messages hide every such run.
const KEY_DIGITS: usize = 32;

/// Any text is refused with a message that tells no key, or is a model from which the maps' contents follow.
///
/// # Panics
/// Where that is not so.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match config::parse(text, Path::new("/nowhere/lb.yaml")) {
        Err(error) => {
            let message = error.to_string();
            assert!(!error.problems.is_empty(), "refused without a problem");
            assert!(!shows_key(&message), "a key may stand in\n{message}");
        }
        Ok(model) => {
            assert!(!shows_key(&format!("{:?}", model.group)), "a key is shown");
            if model.pools.len() <= POOLS {
                follow(&model);
            }
        }
    }
}

fn shows_key(message: &str) -> bool {
    let runs = message.split(|c: char| !c.is_ascii_hexdigit());
    runs.into_iter().any(|run| run.len() == KEY_DIGITS)
}

/// First all next hops are found, then every other one is lost.
fn follow(model: &Model) {
    let targets = targets(model);
    let mut applied = Contents::default();
    let (mut cache, standings) = (Cache::default(), Standings::default());
    for every in [1, 2] {
        let hops: Vec<NextHop> = targets
            .iter()
            .zip(0..)
            .map(|(target, n)| hop(target, n % every == 0))
            .collect();
        let ids = assign(model, &applied);
        let mut world = World {
            model,
            ids: &ids,
            hops: &hops,
            standings: &standings,
            applied: &applied,
            barred: &BTreeSet::new(),
            waiting: &[],
        };
        let desired = reduce(&world, &mut cache);
        check(model, &desired);
        world.applied = &desired;
        let again = reduce(&world, &mut cache);
        assert!(
            diff(&desired, &again).is_empty(),
            "what is applied changes by itself"
        );
        applied = desired;
    }
}

fn hop(target: &Target, is_found: bool) -> NextHop {
    let source = target.source.unwrap_or(match target.address {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    });
    if is_found {
        NextHop::Resolved(Hop {
            ifindex: 2,
            interface: "eth0".to_owned(),
            source_mac: [2; 6],
            destination_mac: [4; 6],
            mtu: 1500,
            source,
        })
    } else {
        NextHop::Unresolved(Why::NoRoute)
    }
}

/// Every slot names a backend of its pool that packets can be sent to, or none where there is none.
fn check(model: &Model, contents: &Contents) {
    assert_eq!(contents.pools.len(), model.pools.len());
    let served = contents.vips.values().filter(|vip| vip.is_served());
    assert_eq!(served.count(), model.vips.len());
    for (pool, ring) in &contents.rings {
        let usable: BTreeSet<u16> = contents
            .backends
            .iter()
            .filter(|(_, b)| {
                b.info.pool == *pool && b.info.next_hop == next_hop::RESOLVED && b.info.weight > 0
            })
            .map(|(&index, _)| index)
            .collect();
        let named: BTreeSet<u16> = ring.iter().copied().collect();
        if usable.is_empty() {
            assert_eq!(named, BTreeSet::from([NO_BACKEND]), "pool {pool}");
        } else {
            assert!(
                named.is_subset(&usable),
                "pool {pool} names {named:?}, usable are {usable:?}"
            );
        }
    }
}
