//! The maps of `lb_probe`, and what aya has no safe way to ask of a packet.

#![expect(
    unsafe_code,
    reason = "the one place that turns pointers of the kernel into values"
)]

use aya_ebpf::helpers::{bpf_get_hash_recalc, bpf_redirect};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::TcContext;
use lb_common::backend::Entry;
use lb_common::stats::Counter;

/// `lb_backends`: the balancer's own, so that probes are wrapped as clients' packets are.
#[map(name = "lb_backends")]
static BACKENDS: Array<Entry> = Array::with_max_entries(4096, 0);

/// `lb_probe_stats`: packets that were wrapped, by backend index, per CPU. A probe that raised no count never went
/// through the tunnel.
#[map(name = "lb_probe_stats")]
static STATS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(4096, 0);

/// One backend's entry.
#[inline(always)]
pub fn backend(index: u16) -> Option<&'static Entry> {
    // SAFETY: map memory lives as long as the program.
    BACKENDS.get_ptr(u32::from(index)).map(|p| unsafe { &*p })
}

/// Counts a wrapped packet.
#[inline(always)]
pub fn count(index: u16, bytes: u32) {
    if let Some(counter) = STATS.get_ptr_mut(u32::from(index)) {
        // SAFETY: the pointer is this CPU's own copy. Where an interrupt comes between, one count is lost, and another
        // is there to be seen.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(bytes);
        }
    }
}

/// The packet's mark.
#[inline(always)]
pub fn mark(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel hands every program a valid context.
    unsafe { (*ctx.skb.skb).mark }
}

/// The interface that the packet is about to leave by.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as in `mark`.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Whether the packet is many segments that are cut later.
#[inline(always)]
pub fn is_segmented(ctx: &TcContext) -> bool {
    // SAFETY: as in `mark`.
    unsafe { (*ctx.skb.skb).gso_size != 0 }
}

/// The hash of the packet's flow.
#[inline(always)]
pub fn hash(ctx: &TcContext) -> u32 {
    // SAFETY: as in `mark`.
    unsafe { bpf_get_hash_recalc(ctx.skb.skb) }
}

/// Sends the packet out by another interface.
#[inline(always)]
pub fn redirect(ifindex: u32) -> i32 {
    // SAFETY: a helper that takes numbers.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}
