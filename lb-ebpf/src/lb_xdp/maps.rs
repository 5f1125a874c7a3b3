//! Every map of `lb_xdp`, and the one constant. The doc comment is its row in the catalogue.

#![expect(unsafe_code, reason = "the one place that turns map pointers into values")]

use core::ptr::read_volatile;

use aya_ebpf::bindings::{BPF_F_MMAPABLE, xdp_action};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, DevMapHash, PerCpuArray};
use lb_common::abi::{MAX_DEVICES, MAX_INTERFACES};
use lb_common::slot::Slot;
use lb_common::stats::Counter;
use lb_common::stop::Stop;
use lb_common::{backend, hash, info, slot, vip};

/// `lb_vips`: what we serve, a perfect hash in an array. The agent stores single words through mmap; read once or twice
/// per packet. Room is made when the program is loaded.
#[map(name = "lb_vips")]
static VIPS: Array<vip::Cell> = Array::with_max_entries(vip::cells(512), BPF_F_MMAPABLE);

/// `lb_slots`: all rings, pool × 65,536 + slot. The agent stores single slots through mmap.
#[map(name = "lb_slots")]
static SLOTS: Array<u64> = Array::with_max_entries(64 * slot::SLOTS as u32, BPF_F_MMAPABLE);

/// `lb_backends`: backend index → everything that encapsulation needs. Index 0 is never used.
#[map(name = "lb_backends")]
static BACKENDS: Array<backend::Entry> = Array::with_max_entries(4096, 0);

/// `lb_devices`: interfaces that packets can leave by, keyed by their index.
#[map(name = "lb_devices")]
static DEVICES: DevMapHash = DevMapHash::with_max_entries(MAX_DEVICES, 0);

/// `lb_vip_stats`: forwarded packets by VIP index, per CPU.
#[map(name = "lb_vip_stats")]
static VIP_STATS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(512, 0);

/// `lb_be_stats`: forwarded packets by backend index, per CPU.
#[map(name = "lb_be_stats")]
static BACKEND_STATS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(4096, 0);

/// `lb_stops`: packets that left the pipeline early, by reason, per CPU.
#[map(name = "lb_stops")]
static STOPS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(Stop::ALL.len() as u32, 0);

/// `lb_meta`: what these maps are and whose. No program reads it.
#[map(name = "lb_meta")]
static META: Array<info::Meta> = Array::with_max_entries(1, 0);

/// `lb_pool_info`: pool index → name. No program reads it.
#[map(name = "lb_pool_info")]
static POOL_INFO: Array<info::Pool> = Array::with_max_entries(64, 0);

/// `lb_be_info`: backend index → identity, name, weight, next-hop state. No program reads it.
#[map(name = "lb_be_info")]
static BACKEND_INFO: Array<info::Backend> = Array::with_max_entries(4096, 0);

/// `lb_iface_info`: attached interfaces. No program reads it.
#[map(name = "lb_iface_info")]
static IFACE_INFO: Array<info::Interface> = Array::with_max_entries(MAX_INTERFACES, 0);

/// The expanded key of the flow hash, set when the program is loaded.
#[unsafe(no_mangle)]
static FLOW_KEY: hash::Key = hash::Key {
    sip: [0; 2],
    nh: [0; hash::WORDS],
};

/// The size of `lb_vips`, see [`vip::shift`]; set when the program is loaded.
#[unsafe(no_mangle)]
static VIP_SHIFT: u32 = vip::shift(vip::cells(512));

/// The key of the flow hash, word by word: a volatile read keeps the compiler from folding the zeros above.
#[inline(always)]
pub fn flow_key() -> hash::Key {
    let (sip, nh) = (&raw const FLOW_KEY.sip, &raw const FLOW_KEY.nh);
    // SAFETY: the pointers are into a static of this very type.
    unsafe {
        hash::Key {
            sip: read_volatile(sip),
            nh: read_volatile(nh),
        }
    }
}

/// The value of a VIP key.
#[inline(always)]
pub fn vip(key: &vip::Key) -> Option<vip::Value> {
    // SAFETY: a pointer to a static.
    let shift = unsafe { read_volatile(&raw const VIP_SHIFT) } & 63;
    let hash = key.hash();
    let bucket = VIPS.get_ptr(vip::bucket(hash, shift))?;
    // SAFETY: map memory lives as long as the program. The agent stores words whole; a volatile read is one load.
    let seed = unsafe { read_volatile(&raw const (*bucket).seed) };
    if seed == 0 {
        return None;
    }
    let cell = VIPS.get_ptr(vip::place(hash, seed, shift))?;
    // SAFETY: as above. The tail is read first: the agent takes it away first and writes it last.
    let (tail, addr) = unsafe {
        (
            read_volatile(&raw const (*cell).tail),
            read_volatile(&raw const (*cell).addr),
        )
    };
    (vip::is_tail_of(tail, key.tail()) && addr == key.addr_words()).then(|| vip::value(tail))
}

/// One slot, by its index in the flat array.
#[inline(always)]
pub fn slot(index: u32) -> Option<Slot> {
    // SAFETY: the array's values are aligned u64s; a volatile read is a single load, so it is never torn.
    SLOTS.get_ptr(index).map(|p| Slot(unsafe { read_volatile(p) }))
}

/// One backend's entry.
#[inline(always)]
pub fn backend(index: u16) -> Option<&'static backend::Entry> {
    // SAFETY: map memory lives as long as the program.
    BACKENDS.get_ptr(u32::from(index)).map(|p| unsafe { &*p })
}

/// Sends the frame to another interface; `None` where it is not in the map.
#[inline(always)]
pub fn redirect(ifindex: u32) -> Option<u32> {
    DEVICES.redirect(ifindex, u64::from(xdp_action::XDP_ABORTED)).ok()
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

/// Counts a forwarded packet for its VIP.
#[inline(always)]
pub fn count_vip(index: u16, bytes: usize) {
    count(&VIP_STATS, u32::from(index), bytes);
}

/// Counts a forwarded packet for its backend.
#[inline(always)]
pub fn count_backend(index: u16, bytes: usize) {
    count(&BACKEND_STATS, u32::from(index), bytes);
}

/// Counts a packet that stopped.
#[inline(always)]
pub fn count_stop(stop: Stop, bytes: usize) {
    count(&STOPS, stop as u32, bytes);
}
