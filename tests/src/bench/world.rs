//! What the maps hold: the same backends for the balancer and for the reference.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use lb_common::addr::Addr;
use lb_common::backend::{Entry, OUTER_V6, READY};
use lb_common::be::Be16;
use lb_common::header::proto;
use lb_common::info::{self, next_hop, text};
use lb_common::slot::SLOTS;
use lb_common::{encap, id, vip};
use lb_userspace::model::Capacity;
use lb_userspace::state::contents::{Backend, Contents};

use super::case::{PORT, VIP_V4, VIP_V6};

/// Room for it.
pub const CAPACITY: Capacity = Capacity {
    pools: 2,
    vips: 16,
    backends: 256,
    flows: 1024,
};
/// Backends of each pool: pool 0 has those from index 1 on, all IPv4, pool 1 the next ones, all IPv6.
pub const BACKENDS: u16 = 100;
/// Where a test run without a context says that its frames come from: the loopback interface, which has this
/// index in every network namespace (`LOOPBACK_IFINDEX`). Backends behind it are answered with `XDP_TX`.
pub const LOOPBACK: u32 = 1;

/// Outer source of every encapsulated packet.
const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

/// The backend of a slot, as an offset in its pool: neighbouring slots have different ones.
pub fn holder(slot: usize) -> u16 {
    (slot * 37 % usize::from(BACKENDS)) as u16
}

/// Address of the IPv4 backend at an offset in its pool.
pub fn backend_v4(offset: u16) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0100 + u32::from(offset))
}

/// The contents of the balancer's maps; all backends are behind the interface with this index.
pub fn contents(ifindex: u32) -> Contents {
    let mut contents = Contents::default();
    for (pool, vip) in [(0u16, VIP_V4), (1, VIP_V6)] {
        for (i, proto) in (0u16..).zip([proto::TCP, proto::UDP]) {
            let key = |port| vip::Key::new(Addr::from(vip), Be16::new(port), proto);
            let value = vip::Value {
                pool,
                index: 2 * pool + i,
                flags: vip::SERVED,
                pad: 0,
            };
            contents.vips.insert(key(PORT), value);
            contents.vips.insert(key(0), vip::Value::default());
        }
        let first = 1 + pool * BACKENDS;
        for offset in 0..BACKENDS {
            let backend = backend(pool == 1, offset, ifindex);
            contents.backends.insert(first + offset, backend);
        }
        let ring: Vec<u16> = (0..SLOTS).map(|slot| first + holder(slot)).collect();
        contents.rings.insert(pool, Arc::new(ring));
        let name = text(&format!("pool{pool}"));
        contents.pools.insert(pool, info::Pool { name });
    }
    contents
}

fn backend(v6: bool, offset: u16, ifindex: u32) -> Backend {
    let (source, destination) = if v6 {
        let address = |last| IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, last));
        (address(0), address(1 + offset))
    } else {
        (IpAddr::from(SOURCE_V4), IpAddr::from(backend_v4(offset)))
    };
    let (src, dst) = (Addr::from(source), Addr::from(destination));
    let entry = Entry {
        destination_mac: mac(offset),
        source_mac: mac(u16::MAX),
        flags: if v6 { READY | OUTER_V6 } else { READY },
        csum_base: if v6 {
            0
        } else {
            encap::base(src.v4_raw(), dst.v4_raw())
        },
        src,
        dst,
        ifindex,
        entropy: 0,
        mtu: 1500,
        port: Be16::new(0),
        pad: [0; 4],
    };
    let name = format!("be{}-{offset}", u8::from(v6));
    let info = info::Backend {
        id: id::stable("bench", &name),
        address: dst,
        weight: 1,
        next_hop: next_hop::RESOLVED,
        name: text(&name),
        ..info::Backend::default()
    };
    Backend { entry, info }
}

fn mac(n: u16) -> [u8; 6] {
    let [a, b] = n.to_be_bytes();
    [2, 1, 0, 0, a, b]
}

/// An entry of the reference's backends: `Backend` of `lb-ebpf/src/bench_reference/main.rs`.
pub fn reference_backend(offset: u16) -> [u8; 24] {
    let (src, dst) = (SOURCE_V4.octets(), backend_v4(offset).octets());
    // What `encap::base` adds up, and the protocol that is always the same here.
    let base = encap::base(u32::from_ne_bytes(src), u32::from_ne_bytes(dst));
    let protocol = Be16::new(u16::from(proto::IPV4)).raw();
    let sum = lb_common::csum::fold(u32::from(base) + u32::from(protocol));
    let mut bytes = [0; 24];
    bytes[..6].copy_from_slice(&mac(offset));
    bytes[6..12].copy_from_slice(&mac(u16::MAX));
    bytes[12..16].copy_from_slice(&u32::from(sum).to_ne_bytes());
    bytes[16..20].copy_from_slice(&src);
    bytes[20..].copy_from_slice(&dst);
    bytes
}

/// A key of the reference's VIPs: `Vip` of `lb-ebpf/src/bench_reference/main.rs`.
pub fn reference_vip(proto: u8) -> [u8; 8] {
    let IpAddr::V4(vip) = VIP_V4 else {
        unreachable!("a constant of this family")
    };
    let ([a, b, c, d], [high, low]) = (vip.octets(), PORT.to_be_bytes());
    [a, b, c, d, high, low, proto, 0]
}
