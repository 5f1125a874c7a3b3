//! `bench_reference`: the yardstick. **Frozen: this file may not change any more.**
//!
//! The least that a balancer of this kind does: VIP by hash map → cheap hash of the flow → slot → backend → IPv4 in
//! IPv4 → counter → `XDP_TX`; everything else passes. Figures of different machines and days are compared as ratios
//! to this program, so whoever changes it makes all earlier ratios worthless. For the same reason it uses nothing of
//! `lb-common` and of `lb-ebpf` but licence and panic handler. `lb-ebpf/BUDGET` holds the hash of this file, and
//! `cargo xtask verify` compares it.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "stands alone, so it has pointers of its own")]

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use lb_ebpf as _;

/// All fields as they lie in memory.
#[repr(C)]
#[derive(Clone, Copy)]
struct Vip {
    address: u32,
    port: u16,
    proto: u8,
    pad: u8,
}

/// Everything that the outer header needs.
#[repr(C)]
#[derive(Clone, Copy)]
struct Backend {
    /// Destination and source of the link layer. Three fields, since a copy of an array would be a loop.
    mac_a: u32,
    mac_b: u32,
    mac_c: u32,
    /// Sum of the header's constant words.
    sum: u32,
    source: u32,
    destination: u32,
}

#[repr(C, packed)]
struct Outer {
    mac_a: u32,
    mac_b: u32,
    mac_c: u32,
    ethertype: u16,
    version: u16,
    len: u16,
    id_frag: u32,
    ttl_proto: u16,
    sum: u16,
    source: u32,
    destination: u32,
}

#[map(name = "ref_vips")]
static VIPS: HashMap<Vip, u32> = HashMap::with_max_entries(512, 0);
#[map(name = "ref_slots")]
static SLOTS: Array<u32> = Array::with_max_entries(65_536, 0);
#[map(name = "ref_backends")]
static BACKENDS: Array<Backend> = Array::with_max_entries(4096, 0);
#[map(name = "ref_packets")]
static PACKETS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

const ETHERNET: usize = 14;
const IP: usize = 20;
const IPV4: u16 = 0x0800u16.to_be();
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The program.
#[xdp]
pub fn bench_reference(ctx: XdpContext) -> u32 {
    balance(&ctx).unwrap_or(XDP_PASS)
}

#[inline(always)]
fn balance(ctx: &XdpContext) -> Option<u32> {
    let ethertype: u16 = read(ctx, 12)?;
    let version_ihl: u8 = read(ctx, ETHERNET)?;
    let proto: u8 = read(ctx, ETHERNET + 9)?;
    if ethertype != IPV4 || version_ihl != 0x45 || (proto != TCP && proto != UDP) {
        return None;
    }
    let len: u16 = read(ctx, ETHERNET + 2)?;
    let [source, address]: [u32; 2] = read(ctx, ETHERNET + 12)?;
    let ports: u32 = read(ctx, ETHERNET + IP)?;
    let vip = Vip {
        address,
        port: (ports >> 16) as u16,
        proto,
        pad: 0,
    };
    // SAFETY: nothing is deleted from this map.
    let pool = *unsafe { VIPS.get(vip) }?;
    let slot = jhash(source, ports, pool) & 0xffff;
    let backend = BACKENDS.get(*SLOTS.get(slot)?)?;
    // SAFETY: the context is the kernel's; no pointer into the frame is kept over this call.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(IP as i32)) } != 0 {
        return Some(XDP_ABORTED);
    }
    let outer: *mut Outer = at(ctx, 0)?;
    // SAFETY: `at` checked the bounds.
    unsafe { outer.write_unaligned(header(backend, len)) };
    let packets = PACKETS.get_ptr_mut(0)?;
    // SAFETY: this CPU's own copy.
    unsafe { *packets += 1 };
    Some(XDP_TX)
}

#[inline(always)]
fn header(backend: &Backend, len: u16) -> Outer {
    let len = (u16::from_be(len).wrapping_add(IP as u16)).to_be();
    let sum = backend.sum + u32::from(len);
    let sum = (sum & 0xffff) + (sum >> 16);
    Outer {
        mac_a: backend.mac_a,
        mac_b: backend.mac_b,
        mac_c: backend.mac_c,
        ethertype: IPV4,
        version: 0x4500u16.to_be(),
        len,
        id_frag: 0x4000u32.to_be(),
        ttl_proto: 0x4004u16.to_be(),
        sum: !(sum as u16),
        source: backend.source,
        destination: backend.destination,
    }
}

/// The last round of Bob Jenkins's lookup3, as in the kernel's `jhash_3words`.
#[inline(always)]
fn jhash(a: u32, b: u32, c: u32) -> u32 {
    const START: u32 = 0xdead_beef + (3 << 2);
    let (mut a, mut b, mut c) = (
        a.wrapping_add(START),
        b.wrapping_add(START),
        c.wrapping_add(START),
    );
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[inline(always)]
fn read<T: Copy>(ctx: &XdpContext, offset: usize) -> Option<T> {
    // SAFETY: `at` checked the bounds, and every `T` here is made of integers.
    at(ctx, offset).map(|p: *mut T| unsafe { p.read_unaligned() })
}

#[inline(always)]
fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    (start + size_of::<T>() <= ctx.data_end()).then_some(start as *mut T)
}
