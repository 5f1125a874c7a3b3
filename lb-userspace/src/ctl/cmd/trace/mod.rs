//! `lbctl trace`: what becomes of one packet, stage by stage, and the program's own word for it.

mod bytes;
mod json;
mod text;

use std::cell::Cell;
use std::fs::File;

use anyhow::{Context, Result, bail};
use lb_common::hash;
use lb_common::info::untext;
use rustix::net::{AddressFamily, SocketType, netdevice, socket};

use super::view::View;
use crate::ctl::args;
use crate::ctl::out::Output;
use crate::dataplane::flows;
use crate::dataplane::maps::Maps;
use crate::dataplane::pin::Root;
use crate::dataplane::trace::Copy;
use crate::trace::{self, Flow, Run, Tables, Trace};

/// The agent may write between our reading of the maps and the program's: then both look again.
const ATTEMPTS: u32 = 3;

/// Everything that is shown.
struct Report<'a> {
    view: &'a View,
    /// Where the packet is from.
    source: String,
    /// The frame as it arrives.
    arrived: &'a [u8],
    /// Name of the interface that it comes in by.
    interface: &'a str,
    trace: Trace,
    run: Run,
    /// What makes the result less certain.
    warnings: Vec<String>,
}

pub(super) fn run(root: &Root, args: &args::Trace) -> Result<Output> {
    let (arrived, source, mut warnings) = frame(args)?;
    trace::check_length(&arrived)?;
    let maps = Maps::open(root)?;
    let (ifindex, interface) = ingress(&maps, args.interface.as_deref())?;
    let mut copy = Copy::load(root, &maps)?;
    if !copy.is_what_runs(root, &interface)? {
        warnings.push(format!(
            "the program on {interface} is not the one in this lbctl: another version may decide otherwise"
        ));
    }
    let (view, trace, run) = agreed(&maps, &mut copy, &arrived, ifindex)?;
    let report = Report {
        view: &view,
        source,
        arrived: &arrived,
        interface: &interface,
        trace,
        run,
        warnings,
    };
    let (json, text) = (json::document(&report), text::page(&report));
    Ok(if report.trace.stop.is_none() {
        Output::yes(json, text)
    } else {
        Output::no(json, text)
    })
}

/// The frame, where it is from, and what is uncertain about it.
fn frame(args: &args::Trace) -> Result<(Vec<u8>, String, Vec<String>)> {
    if let Some(digits) = &args.hex {
        let frame = trace::from_hex(digits)?;
        return Ok((frame, "from the command line".to_owned(), Vec::new()));
    }
    if let Some(path) = &args.file {
        let named = || path.display().to_string();
        let file = File::open(path).with_context(named)?;
        let packet = trace::captured(file, args.packet).with_context(named)?;
        packet.check_headers().with_context(named)?;
        let mut warnings = Vec::new();
        if packet.captured < packet.frame.len() {
            warnings.push(format!(
                "{} of the packet's {} bytes were captured: the others are taken as zero",
                packet.captured,
                packet.frame.len()
            ));
        }
        let source = format!("packet {} of {}", args.packet, path.display());
        return Ok((packet.frame, source, warnings));
    }
    let (Some(from), Some(to)) = (args.from, args.to) else {
        bail!("--from and --to, --file or --hex is needed");
    };
    let flow = Flow {
        from,
        to,
        protocol: args.protocol.into(),
        syn: args.syn,
        payload: args.payload,
    };
    Ok((trace::build(&flow)?, "built from the flow".to_owned(), Vec::new()))
}

/// Index and name of the interface that the packet comes in by.
fn ingress(maps: &Maps, wanted: Option<&str>) -> Result<(u32, String)> {
    let attached = maps.interfaces()?;
    let names: Vec<&str> = attached.iter().map(|row| untext(&row.name)).collect();
    let row = match wanted {
        None => attached.first(),
        Some(name) => attached.iter().find(|row| untext(&row.name) == name),
    };
    let Some(row) = row else {
        match wanted {
            Some(name) if !names.is_empty() => {
                bail!("lb_xdp is not attached to {name}; it is to: {}", names.join(", "))
            }
            _ => bail!("lb_xdp is attached to no interface: no packet comes to it"),
        }
    };
    let name = untext(&row.name);
    if name_of(row.ifindex).as_deref() != Some(name) {
        bail!("{name} is not in this network namespace: run lbctl in that of lbd");
    }
    Ok((row.ifindex, name.to_owned()))
}

/// The name of an interface of this network namespace.
fn name_of(ifindex: u32) -> Option<String> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    netdevice::index_to_name(any, ifindex).ok()
}

/// The stages and the program's own run, which must say the same.
fn agreed(maps: &Maps, copy: &mut Copy, frame: &[u8], ingress: u32) -> Result<(View, Trace, Run)> {
    let mut attempt = 1;
    loop {
        let view = View::read(maps)?;
        let unread = Cell::new(None);
        let known = |key: &_| {
            maps.known(key).unwrap_or_else(|e| {
                unread.set(Some(e));
                trace::Known::default()
            })
        };
        let tables = Tables {
            key: hash::Key::expand(&view.meta.group_key),
            contents: &view.contents,
            slot: &|pool, number| maps.slot(pool, number),
            flow: &known,
            now: flows::now(),
        };
        let trace = trace::trace(frame, ingress, &tables);
        if let Some(e) = unread.take() {
            return Err(e.into());
        }
        let run = copy.run(frame, ingress, trace.known.as_ref())?;
        match trace.check(&run) {
            Ok(()) => return Ok((view, trace, run)),
            Err(_) if attempt < ATTEMPTS => attempt += 1,
            Err(e) => {
                return Err(e).context(
                    "THE PROGRAM AND THIS lbctl DISAGREE: trust neither, and report it with this packet",
                );
            }
        }
    }
}
