//! What the maps hold in a test.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use lb_common::addr::Addr;
use lb_common::backend::{Entry, OUTER_V6, READY};
use lb_common::be::Be16;
use lb_common::info::{self, next_hop, text};
use lb_common::slot::SLOTS;
use lb_common::{encap, hash, id, vip};
use lb_tests::model::balance::Tables;
use lb_userspace::state::contents::{Backend, Contents};

use crate::frame::{TCP, UDP};

pub(crate) const GROUP_KEY: [u8; 16] = *b"a key of a group";

/// Contents of the maps, in the making.
#[derive(Clone, Default)]
pub(crate) struct World {
    pub(crate) contents: Contents,
}

impl World {
    /// A VIP; its counters have the index that it returns. Port 0 = every port.
    pub(crate) fn vip(&mut self, address: &str, port: u16, proto: u8, pool: u16) -> u16 {
        let index = self.contents.vips.values().filter(|v| v.is_served()).count() as u16;
        let addr = Addr::from(crate::frame::ip(address));
        // Every address has a mark for each protocol that has no VIP for every port.
        for proto in [TCP, UDP] {
            let mark = vip::Key::new(addr, Be16::new(0), proto);
            self.contents.vips.entry(mark).or_default();
        }
        let value = vip::Value {
            pool,
            index,
            flags: vip::SERVED,
            pad: 0,
        };
        self.contents
            .vips
            .insert(vip::Key::new(addr, Be16::new(port), proto), value);
        index
    }

    /// A pool whose slot `s` names backend `ring(s)`.
    pub(crate) fn pool(&mut self, index: u16, ring: impl Fn(usize) -> u16) {
        let name = text(&format!("pool{index}"));
        self.contents.pools.insert(index, info::Pool { name });
        self.contents
            .rings
            .insert(index, Arc::new((0..SLOTS).map(ring).collect()));
    }

    /// A backend.
    pub(crate) fn backend(&mut self, index: u16, entry: Entry) {
        let name = format!("be{index}");
        let info = info::Backend {
            id: id::stable("pool", &name),
            address: entry.dst,
            weight: 1,
            next_hop: next_hop::RESOLVED,
            name: text(&name),
            ..info::Backend::default()
        };
        self.contents.backends.insert(index, Backend { entry, info });
    }

    /// The entry of a backend.
    pub(crate) fn entry(&self, index: u16) -> &Entry {
        &self.contents.backends[&index].entry
    }

    /// Lets packets leave by an interface.
    pub(crate) fn device(&mut self, ifindex: u32) {
        self.contents.devices.insert(ifindex);
    }

    /// For the reference model.
    pub(crate) fn tables(&self) -> Tables {
        Tables {
            key: hash::Key::expand(&GROUP_KEY),
            contents: self.contents.clone(),
        }
    }
}

/// The entry of a backend at `dst` that is reached by `ifindex`, wrapped with a source out of `src`.
pub(crate) fn entry(src: IpNet, dst: IpAddr, ifindex: u32, mtu: u16) -> Entry {
    let source = Addr::from(src.network());
    let host_bits = u32::from(src.max_prefix_len() - src.prefix_len());
    let mask = u32::MAX
        .checked_shl(host_bits)
        .map_or(u32::MAX, |network| !network);
    let last = dst_last_byte(dst);
    let (flags, csum_base) = match dst {
        IpAddr::V4(_) => (READY, encap::base(source.v4_raw(), Addr::from(dst).v4_raw())),
        IpAddr::V6(_) => (READY | OUTER_V6, 0),
    };
    Entry {
        destination_mac: [2, 1, 0, 0, 0, last],
        source_mac: [2, 2, 0, 0, ifindex as u8, last],
        flags,
        csum_base,
        src: source,
        dst: Addr::from(dst),
        ifindex,
        entropy: mask.to_be(),
        mtu,
        port: Be16::new(0),
        pad: [0; 4],
    }
}

fn dst_last_byte(dst: IpAddr) -> u8 {
    Addr::from(dst).bytes()[15]
}
