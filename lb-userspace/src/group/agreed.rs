//! What a node does with the group's verdict and its own views, and what all rings of the group are to be.

use std::collections::BTreeMap;

use lb_common::hash::siphash13;
use lb_common::id::stable;

use super::order::Verdict;
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

/// Digest of what all rings are computed from, so of the rings: they are a pure function of it. Backends of weight 0 hold no slots.
pub fn rings(model: &Model, agreed: &Standings) -> u64 {
    let mut pools: Vec<(u64, Vec<u8>)> = Vec::new();
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
        pools.push((stable(pool.name.as_str(), ""), members.concat()));
    }
    pools.sort_unstable();
    let all = pools.into_iter().flat_map(|(pool, members)| {
        let length = (members.len() as u64).to_le_bytes();
        [pool.to_le_bytes().to_vec(), length.to_vec(), members].concat()
    });
    siphash13(0, 0, &all.collect::<Vec<u8>>())
}

/// Digest of the origins of all slots: of each pool its identity, and of each slot its backend's.
pub fn origins(mut pools: Vec<(u64, Vec<u64>)>) -> u64 {
    pools.sort_unstable_by_key(|(pool, _)| *pool);
    let mut digests = Vec::with_capacity(16 * pools.len());
    for (pool, origins) in &pools {
        let bytes: Vec<u8> = origins.iter().flat_map(|id| id.to_le_bytes()).collect();
        digests.extend(pool.to_le_bytes());
        digests.extend(siphash13(0, 0, &bytes).to_le_bytes());
    }
    siphash13(0, 0, &digests)
}

#[cfg(test)]
mod tests {
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
        let both = rings(&model(&web(&[a, b])), &none);
        assert_eq!(rings(&model(&web(&[b, z, a])), &none), both);
        assert_ne!(rings(&model(&web(&[a])), &none), both);
        let down = standings(&[(stable("web", "a"), Standing::Draining)]);
        assert_ne!(rings(&model(&web(&[a, b])), &down), both);
        let other = format!("{}, {{name: x, backends: [{a}]}}", web(&[b]));
        assert_ne!(rings(&model(&other), &none), both);
    }
}
