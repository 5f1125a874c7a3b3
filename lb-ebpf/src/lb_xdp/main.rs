//! `lb_xdp`: steers each packet for a VIP to a backend, by its slot alone unless that slot has changed lately.
#![no_std]
#![no_main]

mod backend;
mod encap;
mod gue;
mod maps;
mod parse;
mod slot;
mod flow;
mod stats;
mod tx;
mod vip;

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use lb_common::backend::GUE;
use lb_common::header::ethertype;
use lb_common::stop::Stop;
use lb_ebpf::link::Link;
use lb_ebpf::packet::Packet;

use crate::parse::Headers;

/// The program on client-facing interfaces.
#[xdp]
pub fn lb_xdp(ctx: XdpContext) -> u32 {
    let packet = Packet::new(&ctx);
    let bytes = packet.len();
    match balance(packet, bytes) {
        Ok(verdict) => verdict,
        Err(stop) => {
            debug!(&ctx, "stop {}", stop as u32);
            stats::stopped(stop, bytes)
        }
    }
}

#[inline(always)]
fn balance(packet: Packet, bytes: usize) -> Result<u32, Stop> {
    let (link, kind) = Link::read(&packet).ok_or(Stop::NotIp)?;
    // One copy of the pipeline for each family: what a family leaves constant costs nothing there.
    match kind {
        ethertype::IPV4 => steer(parse::ipv4(&packet, link)?, packet, bytes),
        ethertype::IPV6 => steer(parse::ipv6(&packet, link)?, packet, bytes),
        ethertype::VLAN | ethertype::SERVICE_VLAN => Err(Stop::VlanStacked),
        _ => Err(Stop::NotIp),
    }
}

#[inline(always)]
fn steer(headers: Headers, packet: Packet, bytes: usize) -> Result<u32, Stop> {
    let vip = vip::find(&headers)?;
    let hash = headers.tuple.hash(&maps::flow_key());
    let slot = slot::find(&vip, hash)?;
    let backend = flow::pick(&packet, &vip, hash, slot)?;
    let entry = backend::find(backend)?;
    let verdict = if entry.flags & GUE == 0 {
        let packet = encap::encap(packet, &headers, entry, hash)?;
        tx::send(&packet, entry)?
    } else {
        gue::send(packet, entry, hash, slot, backend)?
    };
    stats::forwarded(&vip, backend, bytes);
    Ok(verdict)
}
