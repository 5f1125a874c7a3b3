//! `lb_decap`: on a backend, takes the outer header off packets from allowed sources.
#![no_std]
#![no_main]

mod inner;
mod maps;
mod outer;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::header::Ethernet;
use lb_common::stop::{Action, DecapStop};
use lb_ebpf::packet::Packet;

/// The program on a backend's interfaces. What it strips goes up the stack, and so does what is not ours.
#[xdp]
pub fn lb_decap(ctx: XdpContext) -> u32 {
    let packet = Packet::new(&ctx);
    let bytes = packet.len();
    match decap(packet) {
        Ok(()) => {
            maps::count_removed(bytes);
            xdp_action::XDP_PASS
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
fn decap(mut packet: Packet) -> Result<(), DecapStop> {
    let outer = outer::read(&packet)?;
    if !maps::is_allowed(outer.src, outer.version) {
        return Err(DecapStop::NotAllowed);
    }
    let kind = inner::settle(&mut packet, &outer)?;
    let ethernet: Ethernet = packet.read(0).ok_or(DecapStop::Malformed)?;
    let mut packet = packet.shrink(outer.len).ok_or(DecapStop::NoRoom)?;
    outer
        .link
        .write(&mut packet, ethernet.destination, ethernet.source, kind)
        .ok_or(DecapStop::NoRoom)
}
