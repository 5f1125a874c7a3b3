//! Every map of `lb_xdp`, and the one constant. The doc comment is its row in the catalogue.

#![expect(unsafe_code, reason = "the one place that turns map pointers into values")]

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::{BPF_EXIST, BPF_F_MMAPABLE, BPF_F_NO_COMMON_LRU, BPF_F_NO_PREALLOC, xdp_action};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, DevMapHash, HashMap, LruHashMap, PerCpuArray, RingBuf};
use lb_common::abi::{self, MAX_DEVICES, MAX_INTERFACES, budget};
use lb_common::admit::{self, Budget, Limits};
use lb_common::flow::{Entry, Event, Key};
use lb_common::pick::By;
use lb_common::retire::Uses;
use lb_common::slot::Slot;
use lb_common::stats::Counter;
use lb_common::stop::Stop;
use lb_common::tick::Tick;
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

/// `lb_flows`: confirmed and closed TCP flows of this node. Never LRU: a flow without an entry is sent to `origin`. The
/// agent deletes what expires.
#[map(name = "lb_flows")]
static FLOWS: HashMap<Key, Entry> = HashMap::with_max_entries(abi::FLOWS, 0);

/// `lb_replicas`: what peers announced, TCP and UDP, asked where this node has no entry of its own. Room for none
/// where there is no group key, else 60 MiB by default.
#[map(name = "lb_replicas")]
static REPLICAS: HashMap<Key, Entry> = HashMap::with_max_entries(abi::NO_REPLICAS, 0);

/// `lb_probation`: SYNs of this node. The oldest make room, and a budget keeps a flood from doing so within a handshake;
/// each CPU has a list of its own.
#[map(name = "lb_probation")]
static PROBATION: LruHashMap<Key, Entry> = LruHashMap::with_max_entries(1 << 14, BPF_F_NO_COMMON_LRU);

/// `lb_udp_flows`: UDP flows of this node, from their second packet on. Most nodes have none, so memory is taken for those
/// that are there; where there is none, a flow's next packet tries again.
#[map(name = "lb_udp_flows")]
static UDP_FLOWS: HashMap<Key, Entry> =
    HashMap::with_max_entries(abi::udp_flows(abi::FLOWS), BPF_F_NO_PREALLOC);

/// `lb_udp_new`: first packets of UDP flows.
#[map(name = "lb_udp_new")]
static UDP_PROBATION: LruHashMap<Key, Entry> = LruHashMap::with_max_entries(1 << 12, BPF_F_NO_COMMON_LRU);

/// `lb_misses`: when a TCP flow without an entry was first seen in a slot whose origin and current differ.
#[map(name = "lb_misses")]
static MISSES: LruHashMap<Key, Tick> = LruHashMap::with_max_entries(abi::misses(abi::FLOWS, 1), 0);

/// `lb_uses`: who used `origin` of a tracked slot, and when; beside `lb_slots`.
#[map(name = "lb_uses")]
static USES: Array<Uses> = Array::with_max_entries(64 * slot::SLOTS as u32, BPF_F_MMAPABLE);

/// `lb_budgets`: what each CPU has entered in its present window: handshakes and UDP by the second, misses by the minute.
#[map(name = "lb_budgets")]
static BUDGETS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(budget::COUNT, 0);

/// `lb_events`: what became of entries, for the agent to send on. Nothing is written unless `lb_limits` says that somebody
/// reads; what finds the buffer full is lost, and counted.
#[map(name = "lb_events")]
static EVENTS: RingBuf = RingBuf::with_byte_size(abi::EVENTS, 0);

/// `lb_lost`: events that found `lb_events` full, per CPU.
#[map(name = "lb_lost")]
static LOST: PerCpuArray<Counter> = PerCpuArray::with_max_entries(1, 0);

/// `lb_limits`: how much may be entered, whether a table is full, whether anybody reads events.
#[map(name = "lb_limits")]
static LIMITS: Array<Limits> = Array::with_max_entries(1, 0);

/// `lb_picks`: what decided on packets in tracked slots, per CPU, counted when it was decided. All other packets are the
/// slot's own picks.
#[map(name = "lb_picks")]
static PICKS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(By::ALL.len() as u32, 0);

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

/// Counts what decided on a packet, by its number.
#[inline(always)]
pub fn count_pick(by: u32, bytes: usize) {
    count(&PICKS, by, bytes);
}

/// The present time.
#[inline(always)]
pub fn now() -> Tick {
    // SAFETY: a helper without arguments.
    Tick::from_nanos(unsafe { bpf_ktime_get_ns() })
}

#[inline(always)]
const fn flows<const UDP: bool>() -> &'static HashMap<Key, Entry> {
    if UDP { &UDP_FLOWS } else { &FLOWS }
}

#[inline(always)]
const fn entered<const UDP: bool>() -> &'static LruHashMap<Key, Entry> {
    if UDP { &UDP_PROBATION } else { &PROBATION }
}

/// This node's entry, confirmed or closed.
#[inline(always)]
pub fn own<const UDP: bool>(key: &Key) -> Option<Entry> {
    // SAFETY: a copy is made at once. An entry that is deleted meanwhile may be another flow's for that moment, which
    // the owner of a flow, one CPU and the sweep of the agent, makes rare, and no packet is worse off than without it.
    unsafe { flows::<UDP>().get(key) }.copied()
}

/// What a peer announced.
#[inline(always)]
pub fn replica(key: &Key) -> Option<Entry> {
    // SAFETY: as in `own`.
    unsafe { REPLICAS.get(key) }.copied()
}

/// This node's entry in probation.
#[inline(always)]
pub fn probation<const UDP: bool>(key: &Key) -> Option<Entry> {
    // SAFETY: as in `own`.
    unsafe { entered::<UDP>().get(key) }.copied()
}

/// Writes an entry in probation; `false` where the kernel refuses.
#[inline(always)]
pub fn enter<const UDP: bool>(key: &Key, entry: &Entry) -> bool {
    entered::<UDP>().insert(key, entry, 0).is_ok()
}

/// Writes a first own entry and removes what it came from; `false` where there is no room, and all stays.
#[inline(always)]
pub fn confirm<const UDP: bool>(key: &Key, entry: &Entry) -> bool {
    let written = flows::<UDP>().insert(key, entry, 0).is_ok();
    if written {
        // Mostly only one of them is there.
        let _ = entered::<UDP>().remove(key);
        let _ = REPLICAS.remove(key);
    }
    written
}

/// Replaces an own entry; one that the agent has just deleted stays deleted.
#[inline(always)]
pub fn update<const UDP: bool>(key: &Key, entry: &Entry) {
    let _ = flows::<UDP>().insert(key, entry, u64::from(BPF_EXIST));
}

/// Who used `origin` of a slot.
#[inline(always)]
pub fn uses(slot: u32) -> Uses {
    // SAFETY: map memory lives as long as the program. Both marks are one aligned word.
    USES.get_ptr(slot)
        .map_or_else(Uses::default, |p| unsafe { read_volatile(p) })
}

/// Notes who did.
#[inline(always)]
pub fn set_uses(slot: u32, uses: Uses) {
    if let Some(p) = USES.get_ptr_mut(slot) {
        // SAFETY: as above. Where two CPUs write at once, either mark is right.
        unsafe { write_volatile(p, uses) };
    }
}

/// When a miss of this flow was noted.
#[inline(always)]
pub fn missed(key: &Key) -> Option<Tick> {
    // SAFETY: as in `own`.
    unsafe { MISSES.get(key) }.copied()
}

/// Notes a miss; `false` where the kernel refuses.
#[inline(always)]
pub fn note(key: &Key, now: Tick) -> bool {
    MISSES.insert(key, now, 0).is_ok()
}

/// Whether the agent has raised this flag of the limits.
#[inline(always)]
pub fn is_full(flag: u32) -> bool {
    LIMITS.get(0).is_none_or(|limits| limits.flags & flag != 0)
}

/// Takes one entry out of a budget of this CPU.
#[inline(always)]
pub fn take(number: u32, now: Tick) -> bool {
    let (Some(limits), Some(budget)) = (LIMITS.get(0), BUDGETS.get_ptr_mut(number)) else {
        return false;
    };
    let limit = limits.budgets[number as usize];
    // SAFETY: this CPU's own copy, and XDP programs don't nest on one CPU.
    match unsafe { *budget }.take(number, limit, now) {
        Some(next) => {
            // SAFETY: as above.
            unsafe { *budget = next };
            true
        }
        None => false,
    }
}

/// Tells the agent of an entry, if it listens.
#[inline(always)]
pub fn announce(key: &Key, entry: Entry, slot: u32, kind: u8) {
    if LIMITS
        .get(0)
        .is_none_or(|limits| limits.flags & admit::EVENTS == 0)
    {
        return;
    }
    let Some(mut record) = EVENTS.reserve::<Event>(0) else {
        count(&LOST, 0, size_of::<Event>());
        return;
    };
    let event = record.as_mut_ptr();
    // SAFETY: the kernel lends us an aligned record of this size, and every field is written. One by one, since a whole
    // record on the stack would be too much for it.
    unsafe {
        (&raw mut (*event).key).write(*key);
        (&raw mut (*event).entry).write(entry);
        (&raw mut (*event).slot).write(slot);
        (&raw mut (*event).kind).write(kind);
        (&raw mut (*event).pad).write([0; 3]);
    }
    record.submit(0);
}
