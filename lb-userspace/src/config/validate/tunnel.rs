//! The VIPs that are asked through the tunnel: checks belong to pools, and which VIPs a pool has is known last.

use std::net::IpAddr;

use super::{Check, Trail, place};
use crate::config::raw;
use crate::config::source::Excerpt;
use crate::config::what::{Family, What};
use crate::config::wrong_health::WrongHealth;
use crate::model::health::Probe;
use crate::model::{Pool, Protocol, Vip};

/// Gives checks that go through the tunnel the address that they ask.
pub(super) fn vips_of_checks(check: &mut Check<'_>, file: &raw::File, pools: &mut [Pool], vips: &[Vip]) {
    let list = file.pools.as_deref().unwrap_or_default();
    // With VIPs that have problems left out, one that is missing may be among them.
    let is_whole = vips.len() == file.vips.as_deref().unwrap_or_default().len();
    for (index, item) in list.iter().enumerate() {
        let (Some(name), Some(raw)) = (&item.value.name, &item.value.health) else {
            continue;
        };
        let through = raw.value.through_tunnel.as_ref();
        let Some(through) = through.filter(|text| text.value == "true") else {
            continue;
        };
        let pool = pools.iter_mut().find(|pool| pool.name.as_str() == name.value);
        let Some(health) = pool.and_then(|pool| pool.health.as_mut()) else {
            continue;
        };
        let trail = Trail::Root.field("pools");
        let trail = trail.item(index);
        let trail = trail.field("health");
        let of_pool = || vips.iter().filter(|vip| vip.pool == index);
        health.vip = match &raw.value.vip {
            Some(text) => {
                let trail = trail.field("vip");
                let Ok(address) = text.value.parse::<IpAddr>() else {
                    check.report(place(text), trail, What::Address(Excerpt::new(&text.value)));
                    continue;
                };
                if is_whole && !of_pool().any(|vip| vip.address == address) {
                    check.wrong(text, trail, WrongHealth::NoVipOf(address));
                }
                Some(address)
            }
            None => {
                let wanted = transport(&health.probe);
                let vip = of_pool().find(|vip| wanted.is_none_or(|wanted| wanted == vip.protocol));
                if vip.is_none() && is_whole {
                    let wrong = WrongHealth::NoVip(wanted);
                    check.wrong(through, trail.field("through_tunnel"), wrong);
                }
                vip.map(|vip| vip.address)
            }
        };
        if let (Some(text), Some(source), Some(vip)) = (&raw.value.source, health.from.source, health.vip)
            && source.is_ipv4() != vip.is_ipv4()
        {
            let family = Family::of(source);
            let wrong = WrongHealth::SourceOfVip {
                found: source,
                family,
                vip,
            };
            check.wrong(text, trail.field("source"), wrong);
        }
    }
}

/// The transport of a check's questions; an echo has none.
fn transport(probe: &Probe) -> Option<Protocol> {
    match probe {
        Probe::Tcp { .. } | Probe::Http(_) | Probe::Grpc(_) => Some(Protocol::Tcp),
        Probe::Udp(_) => Some(Protocol::Udp),
        Probe::Icmp => None,
    }
}
