//! `lbctl stats`: all counters.

use anyhow::Result;
use lb_common::info::untext;
use lb_common::stats::Counter;
use lb_common::stop::Stop;
use serde_json::json;

use super::view::View;
use crate::ctl::name;
use crate::ctl::out::{Output, table};
use crate::dataplane::maps::Maps;

pub(super) fn run(maps: &Maps, view: &View) -> Result<Output> {
    let mut total = Counter::default();
    let (mut vips, mut vip_rows) = (Vec::new(), Vec::new());
    for (key, value) in view.vips() {
        let counter = maps.vip_counter(value.index)?;
        total += counter;
        vips.push(json!({ "vip": name::vip(key), "packets": counter.packets, "bytes": counter.bytes }));
        vip_rows.push(row(name::vip(key), counter));
    }
    let (mut backends, mut backend_rows) = (Vec::new(), Vec::new());
    for (index, backend) in view.backends() {
        let counter = maps.backend_counter(index)?;
        let name = format!("{}/{}", view.pool(backend.info.pool), untext(&backend.info.name));
        backends.push(json!({ "backend": name, "packets": counter.packets, "bytes": counter.bytes }));
        backend_rows.push(row(name, counter));
    }
    let (mut stops, mut stop_rows) = (Vec::new(), Vec::new());
    for &stop in Stop::ALL {
        let (counter, about) = (maps.stop_counter(stop)?, stop.row());
        let action = name::action(about.action);
        stops.push(json!({
            "reason": about.name, "action": action, "text": about.text,
            "packets": counter.packets, "bytes": counter.bytes,
        }));
        if counter.packets > 0 {
            let [name, packets, bytes] = row(about.name.to_owned(), counter);
            stop_rows.push([name, action.to_owned(), packets, bytes, about.text.to_owned()]);
        }
    }
    let text = format!(
        "{}\n\n{}\n\n{}",
        table(["VIP", ">PACKETS", ">BYTES"], vip_rows),
        table(["BACKEND", ">PACKETS", ">BYTES"], backend_rows),
        table(
            ["STOP REASON", "ACTION", ">PACKETS", ">BYTES", "MEANING"],
            stop_rows
        ),
    );
    let json = json!({
        "node": untext(&view.meta.node),
        "forwarded": { "packets": total.packets, "bytes": total.bytes },
        "vips": vips, "backends": backends, "stops": stops,
    });
    Ok(Output::yes(json, text))
}

fn row(name: String, counter: Counter) -> [String; 3] {
    [name, counter.packets.to_string(), counter.bytes.to_string()]
}
