//! `lbctl vips`: what we serve, with counters.

use std::net::IpAddr;

use anyhow::Result;
use serde_json::json;

use super::view::View;
use crate::ctl::name;
use crate::ctl::out::{Output, table};
use crate::dataplane::maps::Maps;

pub(super) fn run(maps: &Maps, view: &View) -> Result<Output> {
    let (mut json, mut rows) = (Vec::new(), Vec::new());
    for (key, value) in view.vips() {
        let counter = maps.vip_counter(value.index)?;
        let (address, pool) = (IpAddr::from(key.addr).to_string(), view.pool(value.pool));
        json.push(json!({
            "address": address, "port": key.port.get(), "protocol": name::protocol(key), "pool": pool,
            "packets": counter.packets, "bytes": counter.bytes,
        }));
        rows.push([
            address,
            name::port(key),
            name::protocol(key).to_owned(),
            pool.to_owned(),
            counter.packets.to_string(),
            counter.bytes.to_string(),
        ]);
    }
    Ok(Output::yes(
        json!({ "vips": json }),
        table(["VIP", ">PORT", "PROTOCOL", "POOL", ">PACKETS", ">BYTES"], rows),
    ))
}
