//! `lb_decap`: on a backend, takes the outer headers off packets from allowed sources, or sends the packet on.
#![no_std]
#![no_main]

mod inner;
mod maps;
mod outer;
mod second;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::header::Ethernet;
use lb_common::stats::decap;
use lb_common::stop::{Action, DecapStop};
use lb_ebpf::packet::Packet;

/// The program on a backend's interfaces. What it strips goes up the stack, and so does what is not ours.
#[xdp]
pub fn lb_decap(ctx: XdpContext) -> u32 {
    let packet = Packet::new(&ctx);
    let bytes = packet.len();
    match take(packet) {
        Ok(verdict) => {
            let what = if verdict == xdp_action::XDP_PASS {
                decap::REMOVED
            } else {
                decap::SECOND_CHANCE
            };
            maps::count_done(what, bytes);
            verdict
        }
        Err(stop) => {
            maps::count_stop(stop, bytes);
            match stop.action() {
                Action::Pass => xdp_action::XDP_PASS,
                Action::Drop => xdp_action::XDP_DROP,
            }
        }
    }
}

#[inline(always)]
fn take(mut packet: Packet) -> Result<u32, DecapStop> {
    let outer = outer::read(&packet, maps::port())?;
    if !maps::is_allowed(outer.src, outer.version) {
        return Err(DecapStop::NotAllowed);
    }
    if let Some(other) = outer.other
        && outer.ttl > 1
        && !second::is_here(&packet, &outer)
    {
        if maps::is_allowed(other, outer.version) {
            second::forward(&mut packet, &outer, other).ok_or(DecapStop::Malformed)?;
            return Ok(xdp_action::XDP_TX);
        }
        maps::count_done(decap::STRANGER, packet.len());
    }
    let kind = inner::settle(&mut packet, &outer)?;
    let ethernet: Ethernet = packet.read(0).ok_or(DecapStop::Malformed)?;
    let mut packet = packet.shrink(outer.len).ok_or(DecapStop::NoRoom)?;
    outer
        .link
        .write(&mut packet, ethernet.destination, ethernet.source, kind)
        .ok_or(DecapStop::NoRoom)?;
    Ok(xdp_action::XDP_PASS)
}
