//! Every map of `lb_decap`. The doc comment is its row in the catalogue.

#![expect(unsafe_code, reason = "the one place that turns map pointers into values")]

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use lb_common::abi::MAX_DECAP_PREFIXES;
use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::stats::{Counter, decap};
use lb_common::stop::DecapStop;

/// `lb_decap_allow`: outer sources that packets are taken from → their IP version. Prefix lengths count v4-mapped
/// addresses, which lie within short IPv6 prefixes such as `::/0`: hence the version.
#[map(name = "lb_decap_allow")]
static ALLOW: LpmTrie<Addr, u32> = LpmTrie::with_max_entries(MAX_DECAP_PREFIXES, 0);

/// `lb_decap_stops`: packets that were left alone or dropped, by reason, per CPU.
#[map(name = "lb_decap_stops")]
static STOPS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(DecapStop::ALL.len() as u32, 0);

/// `lb_decap_stats`: packets whose outer headers were removed, and those that were sent on, per CPU.
#[map(name = "lb_decap_stats")]
static STATS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(decap::COUNT, 0);

/// `lb_decap_port`: the UDP port that is taken for GUE; 0 = none.
#[map(name = "lb_decap_port")]
static PORT: Array<u32> = Array::with_max_entries(1, 0);

/// The UDP port of GUE, 0 = none.
#[inline(always)]
pub fn port() -> Be16 {
    PORT.get(0).map_or(Be16::new(0), |&port| Be16::new(port as u16))
}

/// Whether packets from this outer source, in a header of this IP version, are ours to take.
#[inline(always)]
pub fn is_allowed(source: Addr, version: u32) -> bool {
    ALLOW.get(Key::new(128, source)).is_some_and(|&v| v == version)
}

/// Counts what became of a packet, see [`decap`].
#[inline(always)]
pub fn count_done(what: u32, bytes: usize) {
    count(&STATS, what, bytes);
}

/// Counts a packet that was left alone or dropped.
#[inline(always)]
pub fn count_stop(stop: DecapStop, bytes: usize) {
    count(&STOPS, stop as u32, bytes);
}

#[inline(always)]
fn count(counters: &PerCpuArray<Counter>, index: u32, bytes: usize) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: the pointer is this CPU's own copy, and XDP programs don't nest on one CPU.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes as u64;
        }
    }
}
