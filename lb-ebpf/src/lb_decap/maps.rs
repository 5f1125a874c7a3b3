//! Every map of `lb_decap`, the doc comment being its row in the catalogue; and the kernel's table of sockets.

#![expect(
    unsafe_code,
    reason = "the one place that turns pointers of the kernel into values"
)]

use core::ffi::c_void;
use core::mem::zeroed;

use aya_ebpf::bindings::bpf_sock_tuple;
use aya_ebpf::helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, PerCpuArray};
use lb_common::abi::MAX_DECAP_PREFIXES;
use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::header::{Ipv4, Ipv6, Tcp};
use lb_common::stats::{Counter, decap};
use lb_common::stop::DecapStop;
use lb_ebpf::packet::Packet;

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

/// The network namespace of the packet's interface: `BPF_F_CURRENT_NETNS`.
const HERE: u64 = -1i64 as u64;
/// `TCP_LISTEN` of the kernel's `tcp_states.h`.
const LISTEN: u32 = 10;

/// Whether somebody here has this connection.
#[inline(always)]
pub fn knows_v4(packet: &Packet, ip: &Ipv4, tcp: &Tcp) -> bool {
    // SAFETY: integers alone.
    let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
    let size = {
        // SAFETY: all views of the union are integers.
        let ipv4 = unsafe { &mut tuple.__bindgen_anon_1.ipv4 };
        (ipv4.saddr, ipv4.daddr) = (ip.src, ip.dst);
        (ipv4.sport, ipv4.dport) = (tcp.ports.src.raw(), tcp.ports.dst.raw());
        size_of_val(ipv4)
    };
    knows(packet, &mut tuple, size, ip, tcp)
}

/// The same over IPv6.
#[inline(always)]
pub fn knows_v6(packet: &Packet, ip: &Ipv6, tcp: &Tcp) -> bool {
    // SAFETY: integers alone.
    let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
    let size = {
        // SAFETY: all views of the union are integers.
        let ipv6 = unsafe { &mut tuple.__bindgen_anon_1.ipv6 };
        (ipv6.saddr, ipv6.daddr) = (ip.src, ip.dst);
        (ipv6.sport, ipv6.dport) = (tcp.ports.src.raw(), tcp.ports.dst.raw());
        size_of_val(ipv6)
    };
    knows(packet, &mut tuple, size, ip, tcp)
}

/// A socket of any state but LISTEN has it, be it TIME-WAIT's or a handshake's. A listener has it where the segment brings
/// back a SYN cookie that this host gave out.
#[inline(always)]
fn knows<Ip>(packet: &Packet, tuple: &mut bpf_sock_tuple, size: usize, ip: &Ip, tcp: &Tcp) -> bool {
    // SAFETY: a valid context, and `size` bytes of the tuple are there.
    let socket =
        unsafe { bpf_skc_lookup_tcp(packet.context().cast::<c_void>(), tuple, size as u32, HERE, 0) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: not null, and ours until it is released.
    let known = unsafe { (*socket).state } != LISTEN || {
        let (ip, tcp) = (core::ptr::from_ref(ip), core::ptr::from_ref(tcp));
        // SAFETY: both headers are whole.
        let checked = unsafe {
            bpf_tcp_check_syncookie(
                socket.cast(),
                ip.cast_mut().cast(),
                size_of::<Ip>() as u32,
                tcp.cast_mut().cast(),
                size_of::<Tcp>() as u32,
            )
        };
        checked == 0
    };
    // SAFETY: taken above, released once.
    unsafe { bpf_sk_release(socket.cast()) };
    known
}
