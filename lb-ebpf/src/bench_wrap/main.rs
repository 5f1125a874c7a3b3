//! `bench_wrap`: makes every repetition of a test run the first one.
//!
//! The kernel hands the frame of one repetition to the next as it was left. So this program takes off what the
//! last call put on, rewrites the Ethernet header, gives the packet its next flow, and tail-calls the program that is
//! measured. What that costs is the same for every program, so a floor measured the same way takes it off.
#![no_std]
#![no_main]

mod maps;

use core::hint::black_box;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::header::{Ethernet, Ipv4, Ipv6};
use lb_ebpf::packet::Packet;

const ETHERTYPE: usize = 12;
/// Both addresses of IPv4, the second half of IPv6's source, and the ports, in a frame without VLAN tag.
const V4_ADDRESSES: usize = size_of::<Ethernet>() + 12;
const V4_PORTS: usize = size_of::<Ethernet>() + size_of::<Ipv4>();
const V6_ADDRESS: usize = size_of::<Ethernet>() + 16;
const V6_PORTS: usize = size_of::<Ethernet>() + size_of::<Ipv6>();

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
    // Opaque, else LLVM subtracts from the frame's end first, in 32 bits, which the verifier refuses for a pointer.
    let len = black_box(packet.len());
    let put_on = len.wrapping_sub(case.frame_len as usize);
    // Also where nothing was put on, so that the floor pays for the helper call too.
    let mut packet = packet.shrink(put_on)?;
    let [a, b, c] = case.macs;
    packet.write(0, a)?;
    packet.write(4, b)?;
    packet.write(8, c)?;
    packet.write(ETHERTYPE, case.ethertype.raw())?;
    let (client, port) = case.flows.next();
    let (client, beside) = (u64::from(client), u64::from(case.beside));
    // Stores as wide as any load that follows: a load of more than was just stored waits for the cache, which no
    // frame out of a network card makes it do.
    let ports = u32::from(port.raw()) | u32::from(case.port.raw()) << 16;
    if case.v6 == 0 {
        packet.write(V4_ADDRESSES, client | beside << 32)?;
        packet.write(V4_PORTS, ports)?;
    } else {
        packet.write(V6_ADDRESS, beside | client << 32)?;
        packet.write(V6_PORTS, ports)?;
    }
    Some(case.program)
}
