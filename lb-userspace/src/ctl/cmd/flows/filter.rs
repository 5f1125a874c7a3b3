//! Which entries are wanted.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;
use lb_common::flow::{CLOSED, CONFIRMED, Entry, Key, PROBATION};
use lb_common::vip;

use crate::ctl::args::{self, EntryState, Origin, VipFilter};
use crate::ctl::cmd::view::View;
use crate::dataplane::flows::Table;
use crate::state::ids::protocol_number;

/// All of these have to be met.
pub(super) struct Filter {
    vip: Option<VipFilter>,
    pool: Option<u16>,
    backend: Option<u16>,
    client: Option<IpNet>,
    state: Option<u8>,
    origin: Option<Origin>,
}

impl Filter {
    /// What was asked for, with the names' indexes.
    pub(super) fn new(view: &View, args: &args::Flows) -> Result<Self> {
        let pool = args
            .pool
            .as_deref()
            .map(|name| view.pool_index(name))
            .transpose()?;
        let backend = match &args.backend {
            Some(target) => Some(view.backend_index(view.pool_index(&target.pool)?, &target.backend)?),
            None => None,
        };
        Ok(Self {
            vip: args.vip,
            pool,
            backend,
            client: args.client,
            state: args.state.map(|state| match state {
                EntryState::Probation => PROBATION,
                EntryState::Confirmed => CONFIRMED,
                EntryState::Closed => CLOSED,
            }),
            origin: args.origin,
        })
    }

    /// Whether an entry is wanted.
    pub(super) fn takes(&self, view: &View, table: Table, key: &Key, entry: &Entry) -> bool {
        let origin = match table {
            Table::Replicas => Origin::Replica,
            _ => Origin::Own,
        };
        self.origin.is_none_or(|wanted| wanted == origin)
            && self.state.is_none_or(|wanted| wanted == entry.state)
            && self.backend.is_none_or(|wanted| wanted == entry.backend)
            && self.client.is_none_or(|net| net.contains(&IpAddr::from(key.src)))
            && self.vip.is_none_or(|vip| is_to(&vip, key))
            && self
                .pool
                .is_none_or(|wanted| pool(view, key, entry) == Some(wanted))
    }
}

fn is_to(vip: &VipFilter, key: &Key) -> bool {
    vip.address == IpAddr::from(key.dst)
        && vip.port.is_none_or(|port| port == key.dport.get())
        && vip
            .protocol
            .is_none_or(|protocol| protocol_number(protocol) == key.proto)
}

/// The pool of an entry's backend; where nobody knows that, of its VIP.
fn pool(view: &View, key: &Key, entry: &Entry) -> Option<u16> {
    let backend = view.contents.backends.get(&entry.backend);
    backend.map(|backend| backend.info.pool).or_else(|| {
        let vip = view.serving(&vip::Key::new(key.dst, key.dport, key.proto));
        vip.map(|(_, value)| value.pool)
    })
}
