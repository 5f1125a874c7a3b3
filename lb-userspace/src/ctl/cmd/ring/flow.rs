//! Who holds a flow.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};
use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::hash::Key;
use lb_common::info::untext;
use lb_common::pick::pick;
use lb_common::slot::of_hash;
use lb_common::tuple::Tuple;
use lb_common::vip;
use serde_json::{Value, json};

use crate::ctl::args;
use crate::ctl::cmd::view::View;
use crate::ctl::name;
use crate::dataplane::maps::Maps;
use crate::model::Protocol;
use crate::state::ids::protocol_number;

/// The flow between two ends.
pub(in crate::ctl::cmd) fn tuple(from: SocketAddr, to: SocketAddr, protocol: Protocol) -> Result<Tuple> {
    if from.is_ipv4() != to.is_ipv4() {
        bail!("{from} and {to} are of different families: no such flow exists");
    }
    Ok(Tuple {
        src: Addr::from(from.ip()),
        dst: Addr::from(to.ip()),
        sport: Be16::new(from.port()),
        dport: Be16::new(to.port()),
        proto: protocol_number(protocol),
    })
}

/// Who holds the flow, by the same functions that the program runs.
pub(super) fn holder(
    maps: &Maps,
    view: &View,
    pool: u16,
    args: &args::Ring,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<(Value, String)> {
    let tuple = tuple(from, to, args.protocol.into())?;
    let key = vip::Key::new(tuple.dst, tuple.dport, tuple.proto);
    let (found, value) = view
        .serving(&key)
        .with_context(|| format!("{} is no VIP", name::vip(&key)))?;
    if value.pool != pool {
        bail!(
            "{} uses pool {:?}, not {:?}",
            name::vip(&found),
            view.pool(value.pool),
            view.pool(pool)
        );
    }
    let slot = of_hash(tuple.hash(&Key::expand(&view.meta.group_key)));
    let held = maps.ring(pool)[slot as usize];
    let index = pick(held).backend;
    let Some(backend) = view.contents.backends.get(&index) else {
        let line =
            format!("{from} → {to} falls into slot {slot}, which has no backend: its packets are dropped");
        return Ok((json!({ "slot": slot, "backend": null }), line));
    };
    let (name, address) = (untext(&backend.info.name), IpAddr::from(backend.info.address));
    let mut line = format!("{from} → {to} falls into slot {slot}, which {name} ({address}) holds");
    if held.is_tracked() {
        line.push_str("; the slot is tracked, so ask `lbctl flows --from … --to …` where this flow is");
    }
    Ok((
        json!({ "slot": slot, "backend": name, "address": address, "vip": name::vip(&found),
                "tracked": held.is_tracked() }),
        line,
    ))
}
