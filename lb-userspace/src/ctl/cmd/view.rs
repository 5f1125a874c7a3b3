//! What the commands read from the maps, put together by name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use lb_common::header::proto;
use lb_common::info::{Meta, untext};
use lb_common::vip;

use crate::dataplane::maps::Maps;
use crate::state::contents::{Backend, Contents};

/// Everything in the maps, counters aside.
pub(super) struct View {
    pub(super) meta: Meta,
    pub(super) contents: Contents,
    /// Slots that each backend holds, by its index.
    pub(super) slots: BTreeMap<u16, u32>,
}

impl View {
    pub(super) fn read(maps: &Maps) -> Result<Self> {
        let contents = maps.contents()?;
        let mut slots = BTreeMap::new();
        for &index in contents.rings.values().flat_map(|ring| ring.iter()) {
            *slots.entry(index).or_insert(0) += 1;
        }
        Ok(Self {
            meta: maps.meta()?,
            contents,
            slots,
        })
    }

    /// A pool's name.
    pub(super) fn pool(&self, index: u16) -> &str {
        self.contents
            .pools
            .get(&index)
            .map_or("?", |pool| untext(&pool.name))
    }

    /// VIPs without the marks of addresses.
    pub(super) fn vips(&self) -> impl Iterator<Item = (&vip::Key, &vip::Value)> {
        self.contents.vips.iter().filter(|(_, value)| value.is_served())
    }

    /// Backends by pool and name, as people look for them.
    pub(super) fn backends(&self) -> Vec<(u16, &Backend)> {
        let mut rows: Vec<_> = self
            .contents
            .backends
            .iter()
            .map(|(&index, backend)| (index, backend))
            .collect();
        rows.sort_by_key(|(_, b)| (self.pool(b.info.pool), untext(&b.info.name)));
        rows
    }

    /// Sum of the weights of a pool.
    pub(super) fn weight(&self, pool: u16) -> u32 {
        self.contents
            .backends
            .values()
            .filter(|b| b.info.pool == pool)
            .map(|b| u32::from(b.info.weight))
            .sum()
    }
}

/// A VIP as people write it: `10.0.0.1:80/tcp`, `any` for every port.
pub(super) fn vip_name(key: &vip::Key) -> String {
    let address = match IpAddr::from(key.addr) {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    format!("{address}:{}/{}", port_name(key), protocol_name(key))
}

/// A VIP's port, `any` for every port.
pub(super) fn port_name(key: &vip::Key) -> String {
    match key.port.get() {
        0 => "any".to_owned(),
        port => port.to_string(),
    }
}

/// A VIP's protocol.
pub(super) fn protocol_name(key: &vip::Key) -> &'static str {
    match key.proto {
        proto::TCP => "tcp",
        proto::UDP => "udp",
        _ => "?",
    }
}

/// A link-layer address.
pub(super) fn mac(bytes: &[u8; 6]) -> String {
    let [a, b, c, d, e, f] = bytes;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
