//! `pools` and their backends.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use serde_yaml::Spanned;

use super::{Check, Duplicate, Trail, address, health, place};
use crate::config::error::Place;
use crate::config::raw::{self, TRUTH, TUNNEL};
use crate::config::source::Excerpt;
use crate::config::what::{Family, Kind, What};
use crate::model::{self, Backend, Capacity, Encap, Name, Pool, Tunnel, Via};

/// All pools; those with problems are left out or incomplete. `path` is the configuration's.
pub(super) fn pools(
    check: &mut Check<'_>,
    file: &raw::File,
    encap: &Encap,
    capacity: Capacity,
    path: &Path,
) -> Vec<Pool> {
    let list = file.pools.as_deref().unwrap_or_default();
    let trail = Trail::Root.field("pools");
    let mut seen = HashMap::new();
    let mut ids = Ids::default();
    let mut pools = Vec::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        let trail = trail.item(index);
        let name = check.required(&item.value.name, place(item), trail.field("name"));
        let name = name.and_then(|text| check.unique_name(&mut seen, text, trail.field("name"), Kind::Pool));
        let backends = backends(
            check,
            item,
            trail,
            Context {
                pool: name.as_ref(),
                encap,
                ids: &mut ids,
            },
        );
        let family = backends.first().map(|backend| Family::of(backend.address));
        let health = item.value.health.as_ref();
        let health = health.and_then(|item| health::health(check, item, trail.field("health"), family, path));
        let tunnel = tunnel(check, &item.value, trail);
        pools.extend(name.map(|name| Pool {
            name,
            backends,
            health,
            tunnel,
        }));
    }
    let over = |room: u32| usize::try_from(room).unwrap_or(usize::MAX);
    let first_over = list.get(over(capacity.pools)).map(place);
    check.room(first_over, trail, Kind::Pool, list.len(), capacity.pools);
    let all = || {
        list.iter()
            .filter_map(|pool| pool.value.backends.as_ref())
            .flat_map(|list| &list.value)
    };
    let room = capacity.usable_backends();
    check.room(
        all().nth(over(room)).map(place),
        trail,
        Kind::Backend,
        all().count(),
        room,
    );
    pools
}

/// How a pool's packets are wrapped; what is wrong is as if it were left out.
fn tunnel(check: &mut Check<'_>, pool: &raw::Pool, trail: Trail<'_>) -> Tunnel {
    let gue = match &pool.encap {
        Some(text) => check.choice(text, trail.field("encap"), &TUNNEL),
        None => Some(false),
    };
    let port = pool.gue_port.as_ref();
    let port_number = port.and_then(|text| check.number(text, trail.field("gue_port"), (1, u16::MAX.into())));
    let chance = pool.second_chance.as_ref();
    let second_chance = chance.and_then(|text| check.choice(text, trail.field("second_chance"), &TRUTH));
    if gue == Some(false) {
        for (name, text) in [("gue_port", port), ("second_chance", chance)] {
            if let Some(text) = text {
                check.report(place(text), trail.field(name), What::GueAlone(name));
            }
        }
    }
    if gue != Some(true) {
        return Tunnel::Ipip;
    }
    Tunnel::Gue {
        port: port_number
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or(Tunnel::DEFAULT_PORT),
        second_chance: second_chance.unwrap_or(Tunnel::DEFAULT_CHANCE),
    }
}

/// What the backends of one pool are checked against.
struct Context<'c> {
    /// The pool's name, if it is valid.
    pool: Option<&'c Name>,
    encap: &'c Encap,
    ids: &'c mut Ids,
}

fn backends(
    check: &mut Check<'_>,
    pool: &Spanned<raw::Pool>,
    trail: Trail<'_>,
    mut context: Context<'_>,
) -> Vec<Backend> {
    let trail = trail.field("backends");
    let mut seen = Seen::default();
    let list = check.items(&pool.value.backends, place(pool), trail);
    let mut backends = Vec::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        backends.extend(backend(check, item, trail.item(index), &mut seen, &mut context));
    }
    // Only where all are valid: a weight that can't be read may be the one above 0.
    if !list.is_empty() && backends.len() == list.len() && backends.iter().all(|backend| backend.weight == 0)
    {
        let place = pool.value.backends.as_ref().map_or(place(pool), place);
        check.report(place, trail, What::AllWeightsZero);
    }
    backends
}

/// What the backends of one pool have had so far, with lines.
#[derive(Default)]
struct Seen {
    names: HashMap<Name, u32>,
    addresses: HashMap<IpAddr, u32>,
    family: Option<(Family, u32)>,
}

fn backend(
    check: &mut Check<'_>,
    item: &Spanned<raw::Backend>,
    trail: Trail<'_>,
    seen: &mut Seen,
    context: &mut Context<'_>,
) -> Option<Backend> {
    let raw::Backend {
        name,
        address,
        weight,
        via,
    } = &item.value;
    let name = check.required(name, place(item), trail.field("name"));
    let name =
        name.and_then(|text| check.unique_name(&mut seen.names, text, trail.field("name"), Kind::Backend));
    let address = check
        .required(address, place(item), trail.field("address"))
        .and_then(|text| {
            let trail = trail.field("address");
            let address = address::address(check, text, trail, context.encap)?;
            let duplicate = Duplicate {
                place: place(text),
                trail,
                kind: Kind::Address,
                value: &address,
            };
            check.unique(&mut seen.addresses, address, duplicate);
            family(check, address, place(text), trail, seen);
            Some(address)
        });
    let weight = match weight {
        Some(text) => check.number(text, trail.field("weight"), (0, u16::MAX.into())),
        None => Some(Backend::DEFAULT_WEIGHT.into()),
    };
    let via = match via {
        Some(text) => Some(self::via(check, text, trail.field("via"))?),
        None => None,
    };
    let (pool, name) = (context.pool?, name?);
    let id = lb_common::id::stable(pool.as_str(), name.as_str());
    if let Some(other) = context.ids.collision(id, &format!("{pool}/{name}")) {
        check.report(
            place(item),
            trail,
            What::IdCollision {
                other: Excerpt::new(other),
            },
        );
    }
    Some(Backend {
        name,
        id,
        address: address?,
        weight: u16::try_from(weight?).ok()?,
        via,
    })
}

/// Reports an address that isn't of the family of the pool's first one.
fn family(check: &mut Check<'_>, found: IpAddr, place: Place, trail: Trail<'_>, seen: &mut Seen) {
    let family = Family::of(found);
    let (expected, first) = *seen.family.get_or_insert((family, place.line));
    if family != expected {
        check.report(place, trail, What::MixedPool { found, family, first });
    }
}

fn via(check: &mut Check<'_>, via: &Spanned<raw::Via>, trail: Trail<'_>) -> Option<Via> {
    let interface = check.required(&via.value.interface, place(via), trail.field("interface"));
    let interface = interface.and_then(|text| check.interface(text, trail.field("interface")));
    let mac = check
        .required(&via.value.mac, place(via), trail.field("mac"))
        .and_then(|text| {
            let report = |error| {
                let what = What::Mac {
                    found: Excerpt::new(&text.value),
                    error,
                };
                check.report(place(text), trail.field("mac"), what);
            };
            model::mac(&text.value).map_err(report).ok()
        });
    Some(Via {
        interface: interface?,
        mac: mac?,
    })
}

/// The stable identities of all backends, with their `pool/name`.
#[derive(Default)]
struct Ids(HashMap<u64, String>);

impl Ids {
    /// Another backend with the same id. The same `pool/name` twice is a duplicate name, not a collision.
    fn collision(&mut self, id: u64, identity: &str) -> Option<&str> {
        let holder = self.0.entry(id).or_insert_with(|| identity.to_owned());
        (holder != identity).then_some(holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_backends_collide() {
        let mut ids = Ids::default();
        assert_eq!(ids.collision(7, "web/a"), None);
        assert_eq!(ids.collision(7, "web/a"), None);
        assert_eq!(ids.collision(8, "web/b"), None);
        assert_eq!(ids.collision(7, "dns/c"), Some("web/a"));
        assert_eq!(ids.collision(7, "web/a"), None);
    }
}
