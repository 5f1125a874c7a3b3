//! Single changes with a known outcome.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::backend::Entry;
use lb_common::info::{self, next_hop};
use lb_common::slot::NO_BACKEND;
use lb_userspace::model::{Backend, Capacity, Encap, Model, Pool, Protocol, Tracking, Vip};
use lb_userspace::net::NextHop;
use lb_userspace::state::contents::{Contents, Ring};
use lb_userspace::state::diff::{Op, diff};
use lb_userspace::state::standing::{Standing, Standings};

use crate::maps::Maps;
use crate::world::{Way, hop, model};
use crate::{desire, desire_with};

pub(super) const FOUND: Way = Way::Found {
    interface: 2,
    station: 0,
};

pub(super) fn pool(name: &str, backends: &[(&str, u16)]) -> Pool {
    let backend = |(place, (backend, weight)): (usize, &(&str, u16))| Backend {
        name: backend.parse().expect("it is valid"),
        id: lb_common::id::stable(name, backend),
        address: Ipv4Addr::new(198, 51, 100, place as u8 + 1).into(),
        weight: *weight,
        via: None,
    };
    Pool {
        name: name.parse().expect("it is valid"),
        backends: backends.iter().enumerate().map(backend).collect(),
        health: None,
        tunnel: lb_userspace::model::Tunnel::Ipip,
    }
}

pub(super) fn vip(last: u8, pool: usize) -> Vip {
    Vip {
        address: Ipv4Addr::new(203, 0, 113, last).into(),
        port: 80,
        protocol: Protocol::Tcp,
        pool,
        tracking: Tracking::OnChange,
        idle_timeout: Vip::DEFAULT_IDLE,
    }
}

pub(super) fn small(pools: Vec<Pool>, vips: Vec<Vip>) -> Model {
    let capacity = Capacity {
        pools: 2,
        vips: 2,
        backends: 5,
        flows: 1024,
    };
    model(capacity, Encap::default(), pools, vips)
}

fn web() -> Model {
    let backends = [("be1", 1), ("be2", 2), ("be3", 1), ("be4", 3)];
    small(vec![pool("web", &backends)], vec![vip(1, 0)])
}

/// Every backend goes the way of its place.
pub(super) fn hops(model: &Model, ways: &[Way]) -> Vec<NextHop> {
    let backends = model.pools.iter().flat_map(|p| &p.backends);
    backends.zip(ways).map(|(b, &way)| hop(way, b.address)).collect()
}

fn program(maps: &mut Maps, model: &Model, ways: &[Way]) -> Vec<Op> {
    let applied = maps.contents();
    let ops = diff(&applied, &desire(model, &hops(model, ways), &applied));
    maps.apply_watched(&ops);
    maps.check();
    ops
}

fn ring(maps: &Maps) -> Ring {
    maps.contents().rings[&0].clone()
}

fn index(maps: &Maps, name: &str) -> u16 {
    let contents = maps.contents();
    let mut found = contents
        .backends
        .iter()
        .filter(|(_, b)| info::untext(&b.info.name) == name);
    *found.next().expect("it is there").0
}

#[test]
fn slots_of_a_lost_backend_are_lent_and_return() {
    let (mut maps, model) = (Maps::default(), web());
    program(&mut maps, &model, &[FOUND; 4]);
    let whole = ring(&maps);
    let gone = index(&maps, "be2");
    for way in [Way::Failed, Way::Lost] {
        program(&mut maps, &model, &[FOUND, way, FOUND, FOUND]);
        for (home, now) in whole.iter().zip(ring(&maps).iter()) {
            assert_ne!(*now, gone);
            assert!(
                *home == gone || home == now,
                "a slot of a backend that is up moved"
            );
        }
        program(&mut maps, &model, &[FOUND; 4]);
        assert_eq!(ring(&maps), whole);
    }
}

#[test]
fn a_pool_without_next_hops_has_empty_slots() {
    let (mut maps, model) = (Maps::default(), web());
    program(&mut maps, &model, &[Way::Asked; 4]);
    assert!(ring(&maps).iter().all(|&slot| slot == NO_BACKEND));
    program(&mut maps, &model, &[FOUND; 4]);
    let whole = ring(&maps);
    assert!(whole.iter().all(|&slot| slot != NO_BACKEND));
    program(&mut maps, &model, &[Way::Failed; 4]);
    assert!(ring(&maps).iter().all(|&slot| slot == NO_BACKEND));
    program(&mut maps, &model, &[FOUND; 4]);
    assert_eq!(ring(&maps), whole);
}

#[test]
fn a_neighbour_that_is_only_asked_for_keeps_its_slots() {
    let (mut maps, model) = (Maps::default(), web());
    program(&mut maps, &model, &[FOUND; 4]);
    assert_eq!(program(&mut maps, &model, &[Way::Asked; 4]), []);
    // Once it was given up, asking again is not enough.
    program(&mut maps, &model, &[FOUND, FOUND, Way::Failed, FOUND]);
    program(&mut maps, &model, &[FOUND, FOUND, Way::Asked, FOUND]);
    let lost = index(&maps, "be3");
    assert!(ring(&maps).iter().all(|&slot| slot != lost));
}

#[test]
fn a_backend_that_moves_to_an_address_nobody_has_found_loses_its_slots() {
    let (mut maps, mut model) = (Maps::default(), web());
    program(&mut maps, &model, &[FOUND; 4]);
    model.pools[0].backends[1].address = Ipv4Addr::new(198, 51, 100, 99).into();
    // No slot may name the backend while its entry is empty: the maps look after every write.
    program(&mut maps, &model, &[FOUND, Way::Asked, FOUND, FOUND]);
    let moved = index(&maps, "be2");
    assert!(ring(&maps).iter().all(|&slot| slot != moved));
    assert_eq!(maps.contents().backends[&moved].entry, Entry::default());
}

#[test]
fn an_entry_over_an_interface_that_is_gone_is_not_kept() {
    let (mut maps, model) = (Maps::default(), web());
    let other = Way::Found {
        interface: 3,
        station: 0,
    };
    program(&mut maps, &model, &[FOUND, other, FOUND, FOUND]);
    // The kernel takes an interface out of the device map when it goes.
    let mut applied = maps.contents();
    assert!(applied.devices.remove(&3));
    let lost = index(&maps, "be2");
    let desired = desire(&model, &hops(&model, &[Way::Asked; 4]), &applied);
    assert_eq!(desired.devices, [2].into());
    assert_eq!(desired.backends[&lost].info.next_hop, next_hop::UNRESOLVED);
    assert!(desired.rings[&0].iter().all(|&slot| slot != lost));
}

#[test]
fn a_full_node_may_replace_everything_in_one_change() {
    let mut maps = Maps::default();
    let before = small(
        vec![
            pool("a", &[("be1", 1), ("be2", 1)]),
            pool("b", &[("be1", 1), ("be2", 1)]),
        ],
        vec![vip(1, 0), vip(2, 1)],
    );
    program(&mut maps, &before, &[FOUND; 4]);
    let after = small(
        vec![
            pool("b", &[("be3", 1), ("be4", 1)]),
            pool("c", &[("be1", 1), ("be2", 1)]),
        ],
        vec![vip(2, 0), vip(1, 1)],
    );
    program(&mut maps, &after, &[FOUND; 4]);
    let third = small(
        vec![
            pool("c", &[("be5", 1), ("be6", 1)]),
            pool("a", &[("be1", 1), ("be2", 1)]),
        ],
        // The VIP of the pool that goes moves to the one that stays.
        vec![vip(2, 0), vip(1, 1)],
    );
    program(&mut maps, &third, &[FOUND; 4]);
}

#[test]
fn the_reserved_index_is_given_to_nobody() {
    let (mut maps, model) = (Maps::default(), web());
    let ops = program(&mut maps, &model, &[FOUND; 4]);
    assert!(
        ops.iter()
            .all(|op| !matches!(op, Op::SetBackend { index: 0, .. }))
    );
    let indexes: Vec<u16> = maps.contents().backends.into_keys().collect();
    assert_eq!(indexes, [1, 2, 3, 4]);
}

/// The entry of one backend, with the outer source that is configured.
fn entry(address: IpAddr, source: &str) -> Entry {
    let mut pool = pool("web", &[("be1", 1)]);
    pool.backends[0].address = address;
    let encap = match address {
        IpAddr::V4(_) => Encap {
            source_ipv4: Some(source.parse().expect("it is valid")),
            source_ipv6: None,
        },
        IpAddr::V6(_) => Encap {
            source_ipv4: None,
            source_ipv6: Some(source.parse().expect("it is valid")),
        },
    };
    let model = model(Capacity::default(), encap, vec![pool], vec![]);
    let desired = desire(&model, &hops(&model, &[FOUND]), &Contents::default());
    desired.backends[&1].entry
}

/// The mask that `host_bits` bits at an address's end make, as its last word lies in memory.
fn mask(host_bits: u32) -> u32 {
    let ones: u128 = (1 << host_bits.min(32)) - 1;
    let bytes = ones.to_be_bytes();
    u32::from_ne_bytes(bytes[12..].try_into().expect("it is valid"))
}

#[test]
fn host_bits_of_the_outer_source_carry_entropy() {
    let v4: IpAddr = Ipv4Addr::new(198, 51, 100, 1).into();
    for len in 0..=32 {
        let entry = entry(v4, &format!("0.0.0.0/{len}"));
        assert_eq!(entry.entropy, mask(32 - len), "/{len}");
    }
    assert_eq!(entry(v4, "192.0.2.16/28").entropy.to_ne_bytes(), [0, 0, 0, 0x0f]);
    let v6: IpAddr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into();
    for len in 64..=128 {
        let entry = entry(v6, &format!("2001:db8::/{len}"));
        assert_eq!(entry.entropy, mask(128 - len), "/{len}");
    }
    assert_eq!(entry(v6, "2001:db8::/120").entropy.to_ne_bytes(), [0, 0, 0, 0xff]);
    assert_eq!(
        entry(v6, "2001:db8::/108").entropy.to_ne_bytes(),
        [0, 0x0f, 0xff, 0xff]
    );
}

#[test]
fn who_is_not_up_gets_no_slot_and_another_weight_counts() {
    let model = web();
    let ways = [FOUND; 4];
    let count = |standings: &Standings, name: &str| {
        let desired = desire_with(&model, &hops(&model, &ways), standings, &Contents::default());
        let index = desired
            .backends
            .iter()
            .find(|(_, b)| info::untext(&b.info.name) == name)
            .map(|(&i, _)| i)
            .expect("it is there");
        desired.rings[&0].iter().filter(|&&slot| slot == index).count()
    };
    let id = |name| lb_common::id::stable("web", name);
    let plain = Standings::default();
    assert_ne!(count(&plain, "be2"), 0);
    for standing in [Standing::Draining, Standing::Suspect, Standing::Dead] {
        let mut standings = Standings::default();
        standings.standing.insert(id("be2"), standing);
        assert_eq!(count(&standings, "be2"), 0, "{standing:?}");
        // Its slots are lent out; those of others stay with them.
        assert!(count(&standings, "be4") > count(&plain, "be4"));
    }
    let mut standings = Standings::default();
    standings.weights.insert(id("be1"), 3);
    assert!(count(&standings, "be1").abs_diff(count(&standings, "be4")) <= 1);
}
