//! `vips`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_yaml::Spanned;

use super::{Check, Duplicate, Trail, address, near_name, place};
use crate::config::raw::{self, ANY_PORT, IDLE_MAX, IDLE_MIN, PROTOCOLS, TRACKING};
use crate::config::source::Excerpt;
use crate::config::what::{Kind, What};
use crate::model::{Capacity, Encap, Tracking, Vip};

/// All VIPs; those with problems are left out.
pub(super) fn vips(check: &mut Check<'_>, file: &raw::File, encap: &Encap, capacity: Capacity) -> Vec<Vip> {
    let list = file.vips.as_deref().unwrap_or_default();
    let trail = Trail::Root.field("vips");
    let surroundings = Surroundings::new(file, encap);
    let mut seen = HashMap::new();
    let mut vips = Vec::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        let trail = trail.item(index);
        let Some(vip) = vip(check, item, trail, &surroundings) else {
            continue;
        };
        let Vip {
            address,
            port,
            protocol,
            ..
        } = vip;
        let duplicate = Duplicate {
            place: place(item),
            trail,
            kind: Kind::Vip,
            value: &vip,
        };
        check.unique(&mut seen, (address, port, protocol), duplicate);
        vips.push(vip);
    }
    let first_over = usize::try_from(capacity.vips)
        .ok()
        .and_then(|room| list.get(room))
        .map(place);
    check.room(first_over, trail, Kind::Vip, list.len(), capacity.vips);
    vips
}

/// What VIPs refer to or may collide with.
struct Surroundings<'s> {
    encap: &'s Encap,
    /// Index of each pool by its name, valid or not: a wrong pool doesn't make its VIPs wrong.
    pools: HashMap<&'s str, usize>,
    /// Line of the first backend with each address.
    backends: HashMap<IpAddr, u32>,
}

impl<'s> Surroundings<'s> {
    fn new(file: &'s raw::File, encap: &'s Encap) -> Self {
        let mut surroundings = Self {
            encap,
            pools: HashMap::new(),
            backends: HashMap::new(),
        };
        for (index, pool) in file.pools.iter().flatten().enumerate() {
            if let Some(name) = &pool.value.name {
                surroundings.pools.entry(&name.value).or_insert(index);
            }
            let backends = pool.value.backends.iter().flat_map(|list| &list.value);
            for text in backends.filter_map(|backend| backend.value.address.as_ref()) {
                if let Ok(address) = text.value.parse() {
                    surroundings.backends.entry(address).or_insert(place(text).line);
                }
            }
        }
        surroundings
    }
}

fn vip(
    check: &mut Check<'_>,
    item: &Spanned<raw::Vip>,
    trail: Trail<'_>,
    around: &Surroundings<'_>,
) -> Option<Vip> {
    let owner = place(item);
    let address = check.required(&item.value.address, owner, trail.field("address"));
    let address = address.and_then(|text| {
        let address = address::address(check, text, trail.field("address"), around.encap)?;
        if let Some(&line) = around.backends.get(&address) {
            check.report(
                place(text),
                trail.field("address"),
                What::VipIsBackend { address, line },
            );
        }
        Some(address)
    });
    let port = match &item.value.port {
        Some(text) if text.value != ANY_PORT.0 => {
            check.number(text, trail.field("port"), (0, u16::MAX.into()))
        }
        _ => Some(ANY_PORT.1.into()),
    };
    let protocol = check.required(&item.value.protocol, owner, trail.field("protocol"));
    let protocol = protocol.and_then(|text| check.choice(text, trail.field("protocol"), &PROTOCOLS));
    let pool = check.required(&item.value.pool, owner, trail.field("pool"));
    let pool = pool.and_then(|text| {
        let index = around.pools.get(text.value.as_str()).copied();
        if index.is_none() {
            let near = near_name(&text.value, around.pools.keys().copied());
            check.report(
                place(text),
                trail.field("pool"),
                What::UnknownPool {
                    found: Excerpt::new(&text.value),
                    near,
                },
            );
        }
        index
    });
    let tracking = match &item.value.tracking {
        Some(text) => check.choice(text, trail.field("tracking"), &TRACKING),
        None => protocol.map(Tracking::default_of),
    };
    let idle_timeout = match &item.value.idle_timeout {
        Some(text) => check
            .number(text, trail.field("idle_timeout"), (IDLE_MIN, IDLE_MAX))
            .map(|seconds| Duration::from_secs(seconds.into())),
        None => Some(Vip::DEFAULT_IDLE),
    };
    Some(Vip {
        address: address?,
        port: u16::try_from(port?).ok()?,
        protocol: protocol?,
        pool: pool?,
        tracking: tracking?,
        idle_timeout: idle_timeout?,
    })
}
