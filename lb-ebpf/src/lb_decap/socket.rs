//! Whether a TCP connection is known to the stack that the program's interface belongs to.

#![expect(unsafe_code, reason = "the one place that asks the kernel for sockets")]

use core::ffi::c_void;
use core::mem::zeroed;

use aya_ebpf::bindings::bpf_sock_tuple;
use aya_ebpf::helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie};
use lb_common::header::{Ipv4, Ipv6, Tcp};
use lb_ebpf::packet::Packet;

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
    let socket = unsafe { bpf_skc_lookup_tcp(packet.context().cast::<c_void>(), tuple, size as u32, HERE, 0) };
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
