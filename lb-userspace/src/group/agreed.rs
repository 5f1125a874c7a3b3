//! What a node does with the group's verdict and its own views, and what all rings of the group are to be.

use std::collections::BTreeMap;

use lb_common::hash::siphash13;
use lb_common::id::stable;
use lb_common::slot::{HELD, TRACKED, UDP_LEARN};

use super::order::{NamedSlot, SlotImage, Verdict};
use crate::model::Model;
use crate::state::standing::{Standing, Standings};

/// Standings as the whole group sees them: the operator's orders, which all nodes have, and the verdict. A backend that the operator
/// takes down gets nothing at once, and is dead when the group says so.
pub fn agreed(operator: &Standings, verdict: &Verdict) -> Standings {
    let mut agreed = operator.clone();
    for standing in agreed.standing.values_mut() {
        *standing = (*standing).min(Standing::Suspect);
    }
    for &id in verdict.returning.iter().chain(&verdict.draining) {
        raise(&mut agreed.standing, id, Standing::Draining);
    }
    for &id in &verdict.dead {
        agreed.standing.insert(id, Standing::Dead);
    }
    agreed
}

/// Standings on this node: the group's, and over them what it alone finds silent. What its own checks call dead is a
/// suspicion until the group has a verdict; that a backend refuses work is the group's to say.
pub fn local(agreed: &Standings, health: &Standings) -> Standings {
    let mut local = agreed.clone();
    let silent = health.standing.iter().filter(|(_, s)| **s >= Standing::Suspect);
    for (&id, _) in silent {
        raise(&mut local.standing, id, Standing::Suspect);
    }
    local
}

fn raise(standings: &mut BTreeMap<u64, Standing>, id: u64, least: Standing) {
    let standing = standings.entry(id).or_default();
    *standing = (*standing).max(least);
}

/// Of each pool its identity and a digest of what its ring is computed from, so of the ring: it is a pure function of that.
/// Backends of weight 0 hold no slots.
pub fn ring_digests(model: &Model, agreed: &Standings) -> Vec<(u64, u64)> {
    let mut pools: Vec<(u64, u64)> = Vec::new();
    for pool in &model.pools {
        let mut members: Vec<[u8; 11]> = Vec::new();
        for backend in &pool.backends {
            let weight = agreed.weight(backend.id, backend.weight);
            if weight == 0 {
                continue;
            }
            let mut bytes = [0; 11];
            bytes[..8].copy_from_slice(&backend.id.to_le_bytes());
            bytes[8..10].copy_from_slice(&weight.to_le_bytes());
            bytes[10] = u8::from(agreed.of(backend.id).takes_new_flows());
            members.push(bytes);
        }
        members.sort_unstable();
        pools.push((stable(pool.name.as_str(), ""), siphash13(0, 0, &members.concat())));
    }
    pools.sort_unstable();
    pools
}

/// One digest of all rings.
pub fn rings(digests: &[(u64, u64)]) -> u64 {
    whole(digests)
}

fn whole(pools: &[(u64, u64)]) -> u64 {
    let all = pools.iter().flat_map(|&(pool, digest)| [pool, digest]);
    siphash13(0, 0, &all.flat_map(u64::to_le_bytes).collect::<Vec<u8>>())
}

/// Digest of the origins of all slots: of each pool its identity, and of each slot its backend's.
pub fn origins(pools: Vec<(u64, Vec<u64>)>) -> u64 {
    let bytes = |ids: Vec<u64>| ids.into_iter().flat_map(u64::to_le_bytes).collect();
    over_pools(pools.into_iter().map(|(pool, ids)| (pool, bytes(ids))))
}

/// Digest of all that a joiner takes over: of each pool its identity, and of each slot `current`, `origin`, `previous` and flags.
pub fn slots(pools: impl IntoIterator<Item = (u64, Vec<NamedSlot>)>) -> u64 {
    let bytes = |slot: NamedSlot| {
        let ids = [slot.current, slot.origin, slot.previous].into_iter();
        // Marks of each node's own traffic.
        let flags = slot.flags & !(HELD | UDP_LEARN);
        ids.flat_map(u64::to_le_bytes).chain(flags.to_le_bytes())
    };
    over_pools(pools.into_iter().map(|(pool, slots)| {
        let bytes: Vec<u8> = slots.into_iter().flat_map(bytes).collect();
        (pool, bytes)
    }))
}

/// Holds the bytes of one pool at a time.
fn over_pools(pools: impl Iterator<Item = (u64, Vec<u8>)>) -> u64 {
    let mut digests: Vec<(u64, u64)> = pools
        .map(|(pool, bytes)| (pool, siphash13(0, 0, &bytes)))
        .collect();
    digests.sort_unstable();
    whole(&digests)
}

/// Own slots in which the group's were put, without what a node may have of its own beside them: it may track more slots, and
/// remember in `previous` where its own flows were, if the group remembers nothing there.
pub fn taken(own: &SlotImage, group: &SlotImage) -> Vec<NamedSlot> {
    if own.slots.len() != group.slots.len() {
        return own.named().collect();
    }
    let one = |(mut own, group): (NamedSlot, NamedSlot)| {
        own.flags &= !TRACKED | group.flags;
        if group.previous == 0 {
            own.previous = 0;
        }
        own
    };
    own.named().zip(group.named()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use lb_common::slot::Slot;

    use super::*;

    fn standings(all: &[(u64, Standing)]) -> Standings {
        Standings {
            standing: all.iter().copied().collect(),
            ..Standings::default()
        }
    }

    #[test]
    fn only_the_group_buries_and_drains() {
        use Standing::{Dead, Draining, Suspect, Up};
        let verdict = Verdict {
            number: 1,
            dead: [1].into(),
            returning: [2].into(),
            draining: [3].into(),
        };
        let agreed = agreed(&standings(&[(4, Draining), (5, Dead)]), &verdict);
        let health = standings(&[(1, Up), (2, Dead), (6, Dead), (7, Suspect), (8, Draining)]);
        let local = local(&agreed, &health);
        for (id, both, here) in [
            (1, Dead, Dead),
            (2, Draining, Suspect),
            (3, Draining, Draining),
            (4, Draining, Draining),
            (5, Suspect, Suspect),
            (6, Up, Suspect),
            (7, Up, Suspect),
            (8, Up, Up),
        ] {
            assert_eq!((agreed.of(id), local.of(id)), (both, here), "{id}");
        }
    }

    #[test]
    fn a_joiner_has_taken_all_of_a_slot() {
        let image = |slots: [Slot; 2]| SlotImage {
            pool: 1,
            backends: vec![0, 71, 72, 73],
            slots: slots.map(|slot| slot.0).to_vec(),
            leavers: Vec::new(),
        };
        let plain = Slot::new(1, 1, 0, 0);
        let group = image([plain, Slot::new(2, 1, 3, TRACKED | HELD)]);
        let digest = slots([(1, group.named().collect())]);
        let equal = |own: SlotImage| slots([(1, taken(&own, &group))]) == digest;
        for (is_equal, own) in [
            (true, [plain, Slot::new(2, 1, 3, TRACKED)]),
            (
                true,
                [
                    Slot::new(1, 1, 2, TRACKED),
                    Slot::new(2, 1, 3, TRACKED | UDP_LEARN),
                ],
            ),
            (false, [plain, Slot::new(1, 1, 3, TRACKED)]),
            (false, [plain, Slot::new(2, 2, 3, TRACKED)]),
            (false, [plain, Slot::new(2, 1, 0, TRACKED)]),
            (false, [plain, Slot::new(2, 1, 3, 0)]),
            (false, [Slot::new(4, 1, 0, 0), Slot::new(2, 1, 3, TRACKED)]),
        ] {
            assert_eq!(equal(image(own)), is_equal, "{own:?}");
        }
        let short = SlotImage {
            slots: vec![plain.0],
            ..group.clone()
        };
        assert!(!equal(short));
        assert_ne!(slots([(2, group.named().collect())]), digest);
    }

    #[test]
    fn rings_have_one_digest_however_they_are_written() {
        let model = |pools: &str| {
            let text = format!(
                "node: {{name: lb1, interfaces: [eth0]}}\npools: [{pools}]\nvips: [{{address: 10.200.1.1, port: 80, protocol: tcp, pool: web}}]\n"
            );
            crate::config::parse(&text, std::path::Path::new("lb.yaml")).expect("it is valid")
        };
        let (a, b, z) = (
            "{name: a, address: 10.0.0.1}",
            "{name: b, address: 10.0.0.2}",
            "{name: z, address: 10.0.0.9, weight: 0}",
        );
        let web = |backends: &[&str]| format!("{{name: web, backends: [{}]}}", backends.join(", "));
        let none = Standings::default();
        let rings = |model: &Model, standings: &Standings| rings(&ring_digests(model, standings));
        let both = rings(&model(&web(&[a, b])), &none);
        assert_eq!(rings(&model(&web(&[b, z, a])), &none), both);
        assert_ne!(rings(&model(&web(&[a])), &none), both);
        let down = standings(&[(stable("web", "a"), Standing::Draining)]);
        assert_ne!(rings(&model(&web(&[a, b])), &down), both);
        let other = format!("{}, {{name: x, backends: [{a}]}}", web(&[b]));
        assert_ne!(rings(&model(&other), &none), both);
    }
}
