//! `bench_wrap`: makes every repetition of a test run the first one.
//!
//! The kernel hands the frame of one repetition to the next as it was left. So this program takes off what the
//! last call put on, rewrites the Ethernet header, gives the packet its next flow, and tail-calls the program that is
//! measured. What that costs is the same for every program, so a floor measured the same way takes it off.
#![no_std]
#![no_main]

mod maps;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::header::{Ethernet, Ipv4, Ipv6};
use lb_ebpf::packet::Packet;

/// Last word of the source address, and the source port, in a frame without VLAN tag.
const V4_ADDRESS: usize = size_of::<Ethernet>() + 12;
const V4_PORT: usize = size_of::<Ethernet>() + size_of::<Ipv4>();
const V6_ADDRESS: usize = size_of::<Ethernet>() + 20;
const V6_PORT: usize = size_of::<Ethernet>() + size_of::<Ipv6>();

/// Restores the frame and calls the program; `XDP_ABORTED` where that failed, which the bench takes for an error.
#[xdp]
pub fn bench_wrap(ctx: XdpContext) -> u32 {
    if let Some(program) = restore(&ctx) {
        maps::call(&ctx, program);
    }
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn restore(ctx: &XdpContext) -> Option<u32> {
    let case = maps::case()?;
    let packet = Packet::new(ctx);
    let put_on = packet.len().wrapping_sub(case.frame_len as usize);
    // Also where nothing was put on, so that the floor pays for the helper call too.
    let mut packet = packet.shrink(put_on)?;
    packet.write(0, case.ethernet)?;
    let (address, port) = case.next();
    if case.v6 == 0 {
        packet.write(V4_ADDRESS, address)?;
        packet.write(V4_PORT, port.raw())?;
    } else {
        packet.write(V6_ADDRESS, address)?;
        packet.write(V6_PORT, port.raw())?;
    }
    Some(case.program)
}
