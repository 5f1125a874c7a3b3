//! A trace for machines: one document, a field for each stage, `null` where it was not reached.

use std::net::IpAddr;

use lb_common::backend::READY;
use lb_common::info::untext;
use lb_common::slot::NO_BACKEND;
use lb_common::stop::Action;
use serde_json::{Value, json};

use super::Report;
use super::bytes::{ecn, hex};
use super::text::{ends, flags, interface, kind, protocol};
use crate::ctl::name;
use crate::trace::{Hidden, Match, Out};

pub(super) fn document(report: &Report<'_>) -> Value {
    let trace = &report.trace;
    let stop = trace.stop.map(|(stage, stop)| {
        let about = stop.row();
        let action = match about.action {
            Action::Pass => "pass",
            Action::Drop => "drop",
        };
        json!({ "stage": stage.name(), "reason": about.name, "action": action, "text": about.text })
    });
    json!({
        "packet": { "source": report.source, "bytes": report.arrived.len(), "interface": report.interface },
        "parse": parsed(report), "vip": vip(report), "slot": slot(report), "backend": backend(report),
        "encap": encap(report), "out": out(report),
        "verdict": report.run.verdict.name(), "forwarded": trace.stop.is_none(), "stop": stop,
        "proof": "a copy of lb_xdp over the same maps gave the same verdict, reason and bytes",
        "frame": frame(report), "warnings": report.warnings,
    })
}

fn parsed(report: &Report<'_>) -> Value {
    let parsed = &report.trace.parsed;
    let Some(link) = &parsed.link else {
        return Value::Null;
    };
    let ip = parsed.ip.map(|ip| {
        json!({
            "source": ip.src, "destination": ip.dst, "bytes": ip.len, "protocol": protocol(&ip).to_lowercase(),
            "dscp": ip.class >> 2, "ecn": ecn(ip.class),
            "hidden": ip.hidden.map(|hidden| match hidden {
                Hidden::Fragment => "fragment",
                Hidden::Extension => "extension",
            }),
        })
    });
    json!({
        "ethertype": link.kind, "vlan": link.tag.map(|tci| tci & 0xfff), "ip": ip,
        "source_port": parsed.ports.map(|(source, _)| source),
        "destination_port": parsed.ports.map(|(_, destination)| destination),
        "flags": parsed.flags.map(flags),
    })
}

fn vip(report: &Report<'_>) -> Value {
    let one = report.trace.vip.map(|found| {
        let by = match found.by {
            Match::Exact => "exact",
            Match::EveryPort => "every_port",
        };
        json!({ "vip": name::vip(&found.key), "match": by, "pool": report.view.pool(found.value.pool) })
    });
    one.into()
}

fn slot(report: &Report<'_>) -> Value {
    let name = |index: u16| {
        let named = (index != NO_BACKEND).then(|| super::text::name(report, index));
        Value::from(named)
    };
    let one = report.trace.slot.map(|steered| {
        json!({
            "hash": format!("{:08x}", steered.hash), "slot": steered.number, "flags": steered.slot.flags(),
            "current": name(steered.slot.current()), "origin": name(steered.slot.origin()),
            "previous": name(steered.slot.previous()), "picked": name(steered.pick.backend),
        })
    });
    one.into()
}

fn backend(report: &Report<'_>) -> Value {
    let one = report.trace.backend.map(|(index, entry)| {
        let info = &report.view.contents.backends[&index].info;
        json!({
            "backend": untext(&info.name), "address": IpAddr::from(info.address),
            "ready": entry.flags & READY != 0, "next_hop_mac": name::mac(&entry.destination_mac),
            "interface": interface(entry.ifindex), "why": untext(&info.why),
        })
    });
    one.into()
}

fn encap(report: &Report<'_>) -> Value {
    let class = report.trace.parsed.ip.map_or(0, |ip| ip.class);
    let one = report.trace.outer.as_ref().map(|outer| {
        let (source, destination) = ends(outer);
        json!({
            "kind": kind(outer), "source": source, "destination": destination, "dscp": class >> 2, "ecn": ecn(class),
            "bytes": outer.len, "mtu": outer.mtu,
            "gue": outer.gue.map(|(from, to)| json!({ "source_port": from, "port": to })),
            "second_chance": outer.other.map(|(index, address)| json!({ "backend": super::text::name(report, index), "address": address })),
        })
    });
    one.into()
}

fn out(report: &Report<'_>) -> Value {
    let one = report.trace.out.map(|out| match out {
        Out::Transmit => json!({ "how": "transmit", "interface": report.interface }),
        Out::Redirect(ifindex) => json!({ "how": "redirect", "interface": interface(ifindex) }),
    });
    one.into()
}

/// What the program left, where it forwards; offsets tell the headers apart.
fn frame(report: &Report<'_>) -> Value {
    let trace = &report.trace;
    let one = trace.parsed.link.zip(trace.outer.as_ref()).map(|(link, outer)| {
        json!({
            "bytes": hex(&report.run.frame), "outer_at": link.len, "inner_at": link.len + outer.header.len(),
        })
    });
    one.filter(|_| trace.stop.is_none()).into()
}
