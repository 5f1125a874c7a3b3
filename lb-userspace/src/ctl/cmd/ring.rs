//! `lbctl ring POOL`: shares of a ring, and who holds a flow.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};
use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::hash::Key;
use lb_common::info::untext;
use lb_common::pick::pick;
use lb_common::slot::{NO_BACKEND, SLOTS, of_hash};
use lb_common::tuple::Tuple;
use lb_common::vip;
use serde_json::{Value, json};

use super::view::{View, vip_name};
use crate::ctl::args;
use crate::ctl::out::{Output, percent, table};
use crate::dataplane::maps::Maps;
use crate::state::ids::protocol_number;

pub(super) fn run(maps: &Maps, view: &View, args: &args::Ring) -> Result<Output> {
    let pool = find(view, &args.pool)?;
    let canonical = |flow: SocketAddr| SocketAddr::new(flow.ip().to_canonical(), flow.port());
    let (shares, empty, text) = shares(view, pool);
    let mut json = json!({ "pool": args.pool, "slots": SLOTS, "shares": shares, "empty": empty });
    let mut text = text;
    if let (Some(from), Some(to)) = (args.from, args.to) {
        let (flow, line) = holder(maps, view, pool, args, canonical(from), canonical(to))?;
        json["flow"] = flow;
        text = format!("{text}\n\n{line}");
    }
    Ok(Output::yes(json, text))
}

fn find(view: &View, name: &str) -> Result<u16> {
    let pools = &view.contents.pools;
    if let Some((&index, _)) = pools.iter().find(|(_, pool)| untext(&pool.name) == name) {
        return Ok(index);
    }
    let names: Vec<&str> = pools.values().map(|pool| untext(&pool.name)).collect();
    bail!("no pool {name:?}; there are: {}", names.join(", "))
}

/// The backends' shares, the number of slots that no backend holds, and both as text.
fn shares(view: &View, pool: u16) -> (Vec<Value>, usize, String) {
    let total = view.weight(pool);
    let (mut json, mut rows) = (Vec::new(), Vec::new());
    for (index, backend) in view.backends().into_iter().filter(|(_, b)| b.info.pool == pool) {
        let slots = view.slots.get(&index).copied().unwrap_or(0);
        let (name, weight) = (untext(&backend.info.name), backend.info.weight);
        json.push(json!({ "backend": name, "weight": weight, "slots": slots }));
        rows.push([
            name.to_owned(),
            weight.to_string(),
            slots.to_string(),
            percent(f64::from(slots), SLOTS as f64),
            percent(f64::from(weight), f64::from(total)),
        ]);
    }
    let empty = view.contents.rings[&pool]
        .iter()
        .filter(|&&slot| slot == NO_BACKEND)
        .count();
    let mut text = table(["BACKEND", ">WEIGHT", ">SLOTS", ">SHARE", ">BY WEIGHT"], rows);
    if empty > 0 {
        text.push_str("\n\nno backend has a next hop: packets are dropped");
    }
    (json, empty, text)
}

/// Who holds the flow, by the same functions that the program runs.
fn holder(
    maps: &Maps,
    view: &View,
    pool: u16,
    args: &args::Ring,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<(Value, String)> {
    if from.is_ipv4() != to.is_ipv4() {
        bail!("{from} and {to} are of different families: no such flow exists");
    }
    let tuple = Tuple {
        src: Addr::from(from.ip()),
        dst: Addr::from(to.ip()),
        sport: Be16::new(from.port()),
        dport: Be16::new(to.port()),
        proto: protocol_number(args.protocol.into()),
    };
    let key = vip::Key::new(tuple.dst, tuple.dport, tuple.proto);
    let served = |key: vip::Key| {
        view.contents
            .vips
            .get(&key)
            .filter(|v| v.is_served())
            .map(|v| (key, *v))
    };
    let (found, value) = served(key)
        .or_else(|| served(key.any_port()))
        .with_context(|| format!("{} is no VIP", vip_name(&key)))?;
    if value.pool != pool {
        bail!(
            "{} uses pool {:?}, not {:?}",
            vip_name(&found),
            view.pool(value.pool),
            args.pool
        );
    }
    let slot = of_hash(tuple.hash(&Key::expand(&view.meta.group_key)));
    let index = pick(maps.ring(pool)[slot as usize]).backend;
    let Some(backend) = view.contents.backends.get(&index) else {
        let line =
            format!("{from} → {to} falls into slot {slot}, which has no backend: its packets are dropped");
        return Ok((json!({ "slot": slot, "backend": null }), line));
    };
    let (name, address) = (untext(&backend.info.name), IpAddr::from(backend.info.address));
    let line = format!("{from} → {to} falls into slot {slot}, which {name} ({address}) holds");
    Ok((
        json!({ "slot": slot, "backend": name, "address": address, "vip": vip_name(&found) }),
        line,
    ))
}
