//! `lb_probe`: where this host's packets leave it, wraps those of health checks as `lb_xdp` wraps clients' packets.
//!
//! A health check marks its packets with the backend that it asks ([`lb_common::probe`]). All others pass untouched, so
//! this may stay attached when no agent lives.
#![no_std]
#![no_main]

mod maps;

use core::mem::offset_of;

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC,
};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use lb_common::backend::{Entry, OUTER_V6, READY};
use lb_common::be::{Be16, Be32};
use lb_common::encap::{self, Inner, fits};
use lb_common::header::{Ethernet, Ipv4, Ipv6, ethertype, proto};
use lb_common::probe;
use lb_ebpf as _;

/// Where the IP header begins.
const AT: usize = size_of::<Ethernet>();

/// The program at the egress of the interfaces that routes to VIPs name.
#[classifier]
pub fn lb_probe(ctx: TcContext) -> i32 {
    let Some(backend) = probe::backend(maps::mark(&ctx)) else {
        return TC_ACT_UNSPEC;
    };
    // What can't be wrapped must not leave as it is: any backend might answer it.
    send(&ctx, backend).unwrap_or(TC_ACT_SHOT)
}

#[inline(always)]
fn send(ctx: &TcContext, backend: u16) -> Option<i32> {
    // One that is dead is asked, too: how else would it come back?
    let entry = maps::backend(backend).filter(|entry| entry.flags & READY != 0)?;
    let inner = inner(ctx)?;
    if !maps::is_segmented(ctx) && !fits(entry, &inner) {
        return None;
    }
    let hash = maps::hash(ctx);
    if entry.flags & OUTER_V6 != 0 {
        let outer = encap::ipv6(entry, &inner, hash);
        wrap(ctx, entry, ethertype::IPV6, &outer, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6)?;
    } else {
        let outer = encap::ipv4(entry, &inner, hash);
        wrap(ctx, entry, ethertype::IPV4, &outer, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4)?;
    }
    maps::count(backend, ctx.len());
    // Else it would be wrapped again where it is redirected to.
    ctx.set_mark(0);
    if entry.ifindex == maps::ifindex(ctx) {
        Some(TC_ACT_OK)
    } else {
        Some(maps::redirect(entry.ifindex))
    }
}

/// What the outer header takes from the packet.
#[inline(always)]
fn inner(ctx: &TcContext) -> Option<Inner> {
    // Field by field: of a whole header LLVM makes reads from the stack that the verifier finds misaligned.
    let kind: Be16 = ctx.load(offset_of!(Ethernet, ethertype)).ok()?;
    match kind {
        ethertype::IPV4 => {
            let len: Be16 = ctx.load(AT + offset_of!(Ipv4, total_len)).ok()?;
            Some(Inner {
                len: len.get(),
                class: ctx.load(AT + offset_of!(Ipv4, tos)).ok()?,
                proto: proto::IPV4,
            })
        }
        ethertype::IPV6 => {
            let len: Be16 = ctx.load(AT + offset_of!(Ipv6, payload_len)).ok()?;
            let word: Be32 = ctx.load(AT + offset_of!(Ipv6, version_class_label)).ok()?;
            Some(Inner {
                len: len.get().wrapping_add(size_of::<Ipv6>() as u16),
                class: (word.get() >> 20) as u8,
                proto: proto::IPV6,
            })
        }
        _ => None,
    }
}

/// On the stack where the verifier allows every access to it.
#[repr(align(8))]
struct Aligned<T>(T);

/// Puts the outer header before the packet, and the next hop's addresses before that.
#[inline(always)]
fn wrap<T>(ctx: &TcContext, entry: &Entry, kind: Be16, outer: &T, flags: u32) -> Option<()> {
    ctx.adjust_room(size_of::<T>() as i32, BPF_ADJ_ROOM_MAC, u64::from(flags))
        .ok()?;
    ctx.store(AT, outer, 0).ok()?;
    let link = Aligned(Ethernet {
        destination: entry.destination_mac,
        source: entry.source_mac,
        ethertype: kind,
    });
    ctx.store(0, &link.0, 0).ok()
}
