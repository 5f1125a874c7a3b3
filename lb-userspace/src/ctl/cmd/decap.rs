//! `lbctl decap`: the decapsulator of a backend.

use anyhow::{Context, Result};
use lb_common::info::mode;
use lb_common::stats::Counter;
use lb_common::stop::DecapStop;
use serde_json::json;

use crate::ctl::args::Decap;
use crate::ctl::out::{Output, table};
use crate::dataplane::pin::Root;
use crate::dataplane::{Error, decap};
use crate::net;

pub(super) fn run(root: &Root, command: &Decap) -> Result<Output> {
    match command {
        Decap::Attach {
            interface,
            allow,
            gue_port,
            attach,
        } => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let links = runtime
                .block_on(net::links())
                .context("asking the kernel for interfaces")?;
            let link = links
                .get(interface)
                .ok_or_else(|| Error::NoInterface(interface.clone()))?;
            let mode = decap::attach(root, link, allow, *gue_port, (*attach).into())?;
            let how = match mode {
                Some(mode) => mode::name(mode),
                None => {
                    "attached already, in the mode that it has; program, allowed sources and port replaced"
                }
            };
            let json = json!({ "interface": interface, "allow": allow, "gue_port": gue_port, "mode": how });
            Ok(Output::yes(json, format!("lb_decap on {interface} ({how})")))
        }
        Decap::Detach { interface } => {
            let json = |detached: bool| json!({ "interface": interface, "detached": detached });
            Ok(if decap::detach(root, interface)? {
                Output::yes(json(true), format!("lb_decap is off {interface}"))
            } else {
                Output::no(json(false), format!("lb_decap was not on {interface}"))
            })
        }
        Decap::Status => match decap::status(root) {
            Ok(status) => Ok(show(&status)),
            Err(e @ Error::NotLoaded(_)) => {
                let text = "lb_decap is not attached; attach it with `lbctl decap attach`";
                Ok(Output::no(
                    json!({ "loaded": false, "error": e.to_string() }),
                    text,
                ))
            }
            Err(e) => Err(e.into()),
        },
    }
}

fn show(status: &decap::Status) -> Output {
    let stop = |(stop, counter): &(DecapStop, Counter)| json!({ "reason": stop.row().name, "packets": counter.packets, "bytes": counter.bytes });
    let allow: Vec<String> = status.allow.iter().map(|(net, _)| net.to_string()).collect();
    let counter = |counter: Counter| json!({ "packets": counter.packets, "bytes": counter.bytes });
    let json = json!({
        "loaded": true,
        "interfaces": status.interfaces,
        "allow": allow,
        "gue_port": status.gue_port,
        "decapsulated": counter(status.removed),
        "second_chance": counter(status.second_chance),
        "second_chance_refused": counter(status.stranger),
        "stops": status.stops.iter().map(stop).collect::<Vec<_>>(),
    });
    let facts = table(
        ["", ""],
        [
            ["attached to".to_owned(), status.interfaces.join(", ")],
            ["allowed sources".to_owned(), allow.join(", ")],
            [
                "GUE".to_owned(),
                status
                    .gue_port
                    .map_or("left alone".to_owned(), |port| format!("UDP port {port}")),
            ],
            [
                "decapsulated".to_owned(),
                format!("{} packets", status.removed.packets),
            ],
            [
                "second chance".to_owned(),
                format!(
                    "{} packets sent on to another backend",
                    status.second_chance.packets
                ),
            ],
            [
                "".to_owned(),
                format!(
                    "{} not sent on, since that backend is no allowed source",
                    status.stranger.packets
                ),
            ],
        ],
    );
    let rows = status.stops.iter().filter(|(_, c)| c.packets > 0);
    let rows = rows.map(|(s, c)| {
        [
            s.row().name.to_owned(),
            c.packets.to_string(),
            s.row().text.to_owned(),
        ]
    });
    let stops = table(["LEFT ALONE OR DROPPED", ">PACKETS", "MEANING"], rows);
    Output::yes(json, format!("{facts}\n\n{stops}"))
}
