//! `bench_generate`: makes live frames, each of its next flow, and sends them to a link.
//!
//! The kernel hands the pages of one batch to the next as the programs on the way have left them. So this program
//! writes the whole header every time.
#![no_std]
#![no_main]

mod maps;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::bench::{TEMPLATE_LEN, TEMPLATE_LEN_V4};
use lb_common::header::{Ethernet, Ipv4, Ipv6};
use lb_ebpf::packet::Packet;

/// Last word of the client's address, and its port, in a frame without VLAN tag.
const V4_CLIENT: usize = size_of::<Ethernet>() + 12;
const V4_PORT: usize = size_of::<Ethernet>() + size_of::<Ipv4>();
const V6_CLIENT: usize = size_of::<Ethernet>() + 8 + 12;
const V6_PORT: usize = size_of::<Ethernet>() + size_of::<Ipv6>();

/// Makes the frame and redirects it; `XDP_ABORTED` where that failed: such a frame never arrives.
#[xdp]
pub fn bench_generate(ctx: XdpContext) -> u32 {
    make(Packet::new(&ctx)).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn make(mut packet: Packet) -> Option<u32> {
    let template = maps::template()?;
    let (client, port) = template.flows.next();
    if template.v6 == 0 {
        write_words::<{ TEMPLATE_LEN_V4 / 8 }>(&mut packet, &template.frame)?;
        packet.write(V4_CLIENT, client)?;
        packet.write(V4_PORT, port.raw())?;
    } else {
        write_words::<{ TEMPLATE_LEN / 8 }>(&mut packet, &template.frame)?;
        packet.write(V6_CLIENT, client)?;
        packet.write(V6_PORT, port.raw())?;
    }
    maps::send(template.link)
}

/// The first `N` words.
#[inline(always)]
fn write_words<const N: usize>(packet: &mut Packet, words: &[u64; TEMPLATE_LEN / 8]) -> Option<()> {
    let mut i = 0;
    while i < N {
        packet.write(8 * i, words[i])?;
        i += 1;
    }
    Some(())
}
