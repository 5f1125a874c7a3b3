//! What an operator should hear about a change.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use lb_common::backend::READY;
use lb_common::encap::outer_len;
use lb_common::info::{next_hop, untext};
use tracing::{info, warn};

use crate::journal::Event;
use crate::model::Model;
use crate::net::Link;
use crate::state::contents::{Backend, Contents};

/// No client sends longer packets over the Internet.
const INTERNET_MTU: u32 = 1500;

/// So many backends are named one by one; of more, their number.
const NAMED: usize = 20;

/// Logs backends whose next hop came, went or changed, and gives the same as events.
pub(super) fn next_hops(before: &Contents, after: &Contents) -> Vec<Event> {
    let told = |index: &u16, backend: &Backend| {
        let old = before
            .backends
            .get(index)
            .filter(|b| b.info.id == backend.info.id);
        old.is_some_and(|old| (old.info.next_hop, old.info.why) == (backend.info.next_hop, backend.info.why))
    };
    let news = after
        .backends
        .iter()
        .filter(|(index, backend)| !told(index, backend))
        .map(|(_, backend)| backend);
    let (found, lost): (Vec<_>, Vec<_>) = news.partition(|b| b.info.next_hop == next_hop::RESOLVED);
    for backend in found.iter().take(NAMED) {
        info!("backend {}: next hop found", name(after, backend));
    }
    for backend in lost.iter().take(NAMED) {
        warn!(
            "backend {}: no next hop, its slots are lent to others of its pool: {}",
            name(after, backend),
            untext(&backend.info.why)
        );
    }
    if found.len() > NAMED {
        info!("and of {} more backends", found.len() - NAMED);
    }
    if lost.len() > NAMED {
        warn!(
            "and {} more backends without next hop; `lbctl backends` names them",
            lost.len() - NAMED
        );
    }
    let found = found.iter().map(|backend| Event::NextHopFound {
        backend: name(after, backend),
    });
    let lost = lost.iter().map(|backend| Event::NextHopLost {
        backend: name(after, backend),
        why: untext(&backend.info.why).to_owned(),
    });
    found.chain(lost).collect()
}

fn name(contents: &Contents, backend: &Backend) -> String {
    let pool = contents
        .pools
        .get(&backend.info.pool)
        .map_or("?", |pool| untext(&pool.name));
    format!("{pool}/{}", untext(&backend.info.name))
}

/// Warns of VIPs that are addresses of this host: clients get the balancer, and the host loses what it served there.
pub(super) fn own_vips(model: &Model, own: &HashSet<IpAddr>, said: &mut BTreeSet<String>) {
    for vip in model.vips.iter().filter(|vip| own.contains(&vip.address)) {
        let text =
            format!("VIP {vip} is an address of this host: its own service there can't be reached any more");
        if said.insert(text.clone()) {
            warn!("{text}");
        }
    }
}

/// Warns where packets leave by an interface that the program is not attached to: the kernel takes a redirect to any
/// device, and drops without a count what its driver can't send.
pub(super) fn unattached(links: &[Link], contents: &Contents, said: &mut BTreeSet<String>) {
    for backend in contents
        .backends
        .values()
        .filter(|b| b.info.next_hop == next_hop::RESOLVED && b.entry.flags & READY != 0)
    {
        let ifindex = backend.entry.ifindex;
        if links.iter().any(|link| link.ifindex == ifindex) {
            continue;
        }
        let text = format!(
            "backend {}: packets leave by interface number {ifindex}, which lb_xdp is not attached to; many drivers send \
             redirected packets only then, and lose them without a count: add it to `node.interfaces`",
            name(contents, backend),
        );
        if said.insert(text.clone()) {
            warn!("{text}");
        }
    }
}

/// Warns where a full packet from a client can't be encapsulated towards a backend: such packets are dropped.
pub(super) fn narrow(links: &[Link], contents: &Contents, said: &mut BTreeSet<String>) {
    for backend in contents
        .backends
        .values()
        .filter(|b| b.info.next_hop == next_hop::RESOLVED && b.entry.flags & READY != 0)
    {
        for link in links {
            let room = u32::from(backend.entry.mtu);
            let full = link.mtu.min(INTERNET_MTU);
            let needed = full + u32::from(outer_len(&backend.entry));
            if room >= needed {
                continue;
            }
            let text = format!(
                "backend {}: its next hop takes packets of {room} bytes, but a packet of {full} bytes that comes in by \
                 {} needs {needed} after encapsulation; packets longer than {} bytes are dropped: raise the MTU \
                 towards the backends",
                name(contents, backend),
                link.name,
                room - u32::from(outer_len(&backend.entry)).min(room),
            );
            if said.insert(text.clone()) {
                warn!("{text}");
            }
        }
    }
}
