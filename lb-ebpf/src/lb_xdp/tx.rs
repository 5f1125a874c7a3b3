//! Seventh stage: out.

use aya_ebpf::bindings::xdp_action;
use lb_common::backend::Entry;
use lb_common::stop::Stop;
use lb_ebpf::packet::Packet;

use crate::maps;

/// The verdict that sends an encapsulated packet: back by the interface that it came by, or to another one.
#[inline(always)]
pub fn send(packet: &Packet, entry: &Entry) -> Result<u32, Stop> {
    if entry.ifindex == packet.ifindex() {
        return Ok(xdp_action::XDP_TX);
    }
    maps::redirect(entry.ifindex).ok_or(Stop::NoDevice)
}
