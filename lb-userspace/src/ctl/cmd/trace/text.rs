//! A trace for people: a line for each stage, then the bytes.

use std::net::IpAddr;

use lb_common::header::proto;
use lb_common::info::untext;
use lb_common::slot::NO_BACKEND;
use lb_common::stop::Action;

use super::bytes::{class, dump, ethernet, outer};
use super::{Report, name_of};
use crate::ctl::name;
use crate::trace::{Hidden, Ip, Match, Out, Outer, Stage, Trace};

/// Width of the words on the left.
const LEFT: usize = 9;

/// Bytes of a packet that people are shown; machines get all.
const MOST_SHOWN: usize = 128;

pub(super) fn page(report: &Report<'_>) -> String {
    let mut lines: Vec<String> = report.warnings.iter().map(|w| row("WARNING", w)).collect();
    lines.push(row(
        "packet",
        &format!(
            "{}, {} bytes, in by {}",
            report.source,
            report.arrived.len(),
            report.interface
        ),
    ));
    let stages = [
        (Stage::Parse, parsed(report)),
        (Stage::Vip, vip(report)),
        (Stage::Slot, slot(report)),
        (Stage::Backend, backend(report)),
        (
            Stage::Encap,
            report.trace.outer.as_ref().map(|outer| encap(report, outer)),
        ),
        (Stage::Out, out(report)),
    ];
    for (stage, found) in stages {
        let stopped = report.trace.stop.filter(|(at, _)| *at == stage);
        let stop = stopped.map(|(_, stop)| format!("STOP {}: {}", stop.row().name, stop.row().text));
        let left = std::iter::once(stage.name()).chain(std::iter::repeat(""));
        let words = found.into_iter().chain(stop);
        lines.extend(left.zip(words).map(|(left, words)| row(left, &words)));
    }
    lines.push(row("verdict", &verdict(report)));
    lines.push(row(
        "proof",
        "a copy of lb_xdp over the same maps gave the same verdict, reason and bytes",
    ));
    if report.trace.stop.is_none() {
        lines.push(String::new());
        lines.extend(bytes(report));
    }
    lines.join("\n")
}

fn row(left: &str, right: &str) -> String {
    format!("{left:<LEFT$}{right}")
}

/// What is in the frame.
fn parsed(report: &Report<'_>) -> Option<String> {
    let parsed = &report.trace.parsed;
    let link = parsed.link?;
    let tag = link
        .tag
        .map_or(String::new(), |tci| format!(", VLAN {}", tci & 0xfff));
    let Some(ip) = parsed.ip else {
        return Some(format!("Ethernet{tag}, EtherType {:#06x}", link.kind));
    };
    let version = if ip.src.is_ipv4() { "IPv4" } else { "IPv6" };
    let hidden = match ip.hidden {
        None => "",
        Some(Hidden::Fragment) => ", a fragment",
        Some(Hidden::Extension) => ", an extension header first",
    };
    let flow = match parsed.ports {
        Some((from, to)) => format!("{} → {}", end(ip.src, from), end(ip.dst, to)),
        None => format!("{} → {}", ip.src, ip.dst),
    };
    let flags = parsed.flags.map_or(String::new(), |f| format!(" [{}]", flags(f)));
    Some(format!(
        "Ethernet{tag}, {version} of {} bytes, {}{hidden}, {}{flags} {flow}",
        ip.len,
        class(ip.class),
        protocol(&ip)
    ))
}

fn end(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// A packet's protocol in words.
pub(super) fn protocol(ip: &Ip) -> String {
    match ip.proto {
        proto::TCP => "TCP".to_owned(),
        proto::UDP => "UDP".to_owned(),
        1 => "ICMP".to_owned(),
        58 => "ICMPv6".to_owned(),
        other => format!("protocol {other}"),
    }
}

/// TCP's flags by name, lowest bit first (RFC 9293 section 3.1).
pub(super) fn flags(flags: u8) -> String {
    const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set = NAMES
        .iter()
        .enumerate()
        .filter(|(bit, _)| flags >> bit & 1 == 1)
        .map(|(_, name)| *name);
    set.collect::<Vec<_>>().join(" ")
}

fn vip(report: &Report<'_>) -> Option<String> {
    let found = report.trace.vip?;
    let by = match found.by {
        Match::Exact => "by its own port",
        Match::EveryPort => "as the VIP for every port",
    };
    let pool = report.view.pool(found.value.pool);
    Some(format!("{} found {by}, pool {pool}", name::vip(&found.key)))
}

fn slot(report: &Report<'_>) -> Option<String> {
    let steered = report.trace.slot?;
    let name = |index: u16| name(report, index);
    let slot = steered.slot;
    let tracked = match slot.flags() {
        0 => "untracked".to_owned(),
        flags => format!("flags {flags:#06x}"),
    };
    Some(format!(
        "{} by hash {:08x}: current {}, origin {}, previous {}, {tracked}",
        steered.number,
        steered.hash,
        name(slot.current()),
        name(slot.origin()),
        name(slot.previous())
    ))
}

/// A backend's name, by its index.
pub(super) fn name(report: &Report<'_>, index: u16) -> String {
    if index == NO_BACKEND {
        return "none".to_owned();
    }
    let backend = report.view.contents.backends.get(&index);
    backend.map_or_else(|| format!("index {index}"), |b| untext(&b.info.name).to_owned())
}

fn backend(report: &Report<'_>) -> Option<String> {
    let (index, entry) = report.trace.backend?;
    let info = &report.view.contents.backends[&index].info;
    let ready = report.trace.stop.is_none_or(|(stage, _)| stage != Stage::Backend);
    let next_hop = if ready {
        format!(
            "ready, next hop {} by {}",
            name::mac(&entry.destination_mac),
            interface(entry.ifindex)
        )
    } else {
        format!("not ready ({})", untext(&info.why))
    };
    Some(format!(
        "{} ({}), {next_hop}",
        untext(&info.name),
        IpAddr::from(info.address)
    ))
}

/// An interface by name, as far as it has one here.
pub(super) fn interface(ifindex: u32) -> String {
    name_of(ifindex).unwrap_or_else(|| format!("interface {ifindex}"))
}

fn encap(report: &Report<'_>, outer: &Outer) -> String {
    let (src, dst) = ends(outer);
    let room = if outer.len <= outer.mtu.into() {
        "of"
    } else {
        "but the MTU is"
    };
    let udp = outer.gue.map_or(String::new(), |(from, to)| {
        let other = outer
            .other
            .map_or("no other backend".to_owned(), |(index, address)| {
                format!("{} ({address}) as second chance", name(report, index))
            });
        format!(", GUE from UDP port {from} to {to} that names {other}")
    });
    let most = if outer.gue.is_some() { "at most " } else { "" };
    format!(
        "{}: {src} → {dst}{udp}, {}, {most}{} bytes {room} {}",
        kind(outer),
        class(report.trace.parsed.ip.map_or(0, |ip| ip.class)),
        outer.len,
        outer.mtu
    )
}

/// What is in what.
pub(super) fn kind(outer: &Outer) -> &'static str {
    match (outer.inner_v6, outer.v6) {
        (false, false) => "4in4",
        (false, true) => "4in6",
        (true, false) => "6in4",
        (true, true) => "6in6",
    }
}

/// Outer source and destination.
pub(super) fn ends(outer: &Outer) -> (IpAddr, IpAddr) {
    let v4 = |at: usize| IpAddr::from(std::array::from_fn::<u8, 4, _>(|i| outer.header[at + i]));
    let v6 = |at: usize| IpAddr::from(std::array::from_fn::<u8, 16, _>(|i| outer.header[at + i]));
    if outer.v6 {
        (v6(8), v6(24))
    } else {
        (v4(12), v4(16))
    }
}

fn out(report: &Report<'_>) -> Option<String> {
    Some(match report.trace.out? {
        Out::Transmit => format!("back by {}", report.interface),
        Out::Redirect(ifindex) => format!("redirected to {}", interface(ifindex)),
    })
}

fn verdict(report: &Report<'_>) -> String {
    let name = report.run.verdict.name();
    let words = match report.trace.stop {
        None => format!("forwarded to {}", picked(&report.trace, report)),
        Some((_, stop)) => match stop.action() {
            Action::Pass => "not forwarded: untouched to the host's own stack".to_owned(),
            Action::Drop => "not forwarded: dropped".to_owned(),
        },
    };
    format!("{name}, {words}")
}

fn picked(trace: &Trace, report: &Report<'_>) -> String {
    trace
        .backend
        .map_or_else(|| "none".to_owned(), |(index, _)| name(report, index))
}

/// The frame that the program left, its headers told apart.
fn bytes(report: &Report<'_>) -> Vec<String> {
    let (Some(link), Some(wrap)) = (&report.trace.parsed.link, &report.trace.outer) else {
        return Vec::new();
    };
    let frame = &report.run.frame;
    let (outer_at, inner_at) = (link.len, link.len + wrap.header.len());
    let mut lines = vec![row("bytes", &format!("{} as they leave", frame.len()))];
    let (destination, source) = (
        std::array::from_fn(|i| frame[i]),
        std::array::from_fn(|i| frame[6 + i]),
    );
    let left = crate::trace::Link {
        source,
        destination,
        kind: u16::from_be_bytes([frame[outer_at - 2], frame[outer_at - 1]]),
        ..*link
    };
    for (name, words, from, to) in [
        ("ethernet", ethernet(&left), 0, outer_at),
        ("outer", outer(&frame[outer_at..]), outer_at, inner_at),
        ("inner", "the packet as it came".to_owned(), inner_at, frame.len()),
    ] {
        lines.push(row(name, &words));
        let shown = to.min(from + MOST_SHOWN);
        let dump = dump(&frame[from..shown], from);
        lines.extend(dump.iter().map(|line| row("", line)));
        if shown < to {
            lines.push(row("", &format!("... {} bytes more", to - shown)));
        }
    }
    lines
}
