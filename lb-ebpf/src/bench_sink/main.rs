//! `bench_sink`: counts live frames where they arrive, keeps some for a look, and drops them.
#![no_std]
#![no_main]

mod maps;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::be::Be16;
use lb_common::bench::{SAMPLE_LEN, Sample, arrival};
use lb_common::header::{Ethernet, ethertype, proto};
use lb_ebpf::packet::Packet;

const ETHERTYPE: usize = 12;
const V4_PROTO: usize = size_of::<Ethernet>() + 9;
const V6_NEXT: usize = size_of::<Ethernet>() + 6;

/// `XDP_DROP`, always.
#[xdp]
pub fn bench_sink(ctx: XdpContext) -> u32 {
    let packet = Packet::new(&ctx);
    maps::count(kind(&packet).unwrap_or(arrival::OTHER), packet.len());
    if let Some(sample) = maps::wanted() {
        take(&packet, sample);
    }
    xdp_action::XDP_DROP
}

#[inline(always)]
fn kind(packet: &Packet) -> Option<u32> {
    let proto: u8 = match Be16::from_raw(packet.read(ETHERTYPE)?) {
        ethertype::IPV4 => packet.read(V4_PROTO)?,
        ethertype::IPV6 => packet.read(V6_NEXT)?,
        _ => return None,
    };
    match proto {
        proto::IPV4 | proto::IPV6 => Some(arrival::ENCAPSULATED),
        proto::TCP | proto::UDP => Some(arrival::PLAIN),
        _ => None,
    }
}

#[inline(always)]
fn take(packet: &Packet, sample: &mut Sample) {
    sample.len = packet.len() as u32;
    let mut i = 0;
    while i < SAMPLE_LEN / 4 {
        let Some(word) = packet.read(4 * i) else {
            return;
        };
        sample.frame[i] = word;
        i += 1;
    }
}
