//! `lb_decap` on a backend: loads, attaches, changes what it allows, reads its counters.

use std::collections::BTreeSet;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, MapData, MapError, PerCpuArray};
use ipnet::IpNet;
use lb_common::abi::{self, map};
use lb_common::addr::Addr;
use lb_common::stats::{self, Counter};
use lb_common::stop::DecapStop;

use super::Error;
use super::attach::{attach_new, replace};
use super::load::{into_kernel, load_plain, pin_program, program};
use super::maps::open;
use super::object::LB_DECAP;
use super::pin::{Root, remove_file};
use super::pod::Plain;
use super::read::sum;
use super::shape::{self, Pinned};
use crate::model::Attach;
use crate::net::Link;

type Allow = LpmTrie<MapData, Plain<Addr>, u32>;
type Port = Array<MapData, u32>;
type Counters = PerCpuArray<MapData, Plain<Counter>>;

/// What is known of a running decapsulator.
#[derive(Clone, Debug)]
pub struct Status {
    /// Interfaces that it is attached to.
    pub interfaces: Vec<String>,
    /// Outer sources that it takes packets from, with the IP version of their headers.
    pub allow: Vec<(IpNet, u32)>,
    /// The UDP port that is taken for GUE; `None`: GUE is left alone.
    pub gue_port: Option<u16>,
    /// Packets whose outer header was removed.
    pub removed: Counter,
    /// Packets of connections that aren't here, sent on to the backend that they name.
    pub second_chance: Counter,
    /// Those that would have been sent on, but to no allowed source.
    pub stranger: Counter,
    /// Packets that were left alone or dropped, by reason.
    pub stops: Vec<(DecapStop, Counter)>,
}

/// Attaches the decapsulator to an interface and allows exactly these outer sources, on all of its interfaces.
/// `gue_port` is the UDP port that is taken for GUE on all of them, 0 = none.
/// Where it runs already list, port and program are replaced. The mode, see [`lb_common::info::mode`]; `None` where
/// it was attached already.
pub fn attach(
    root: &Root,
    link: &Link,
    allow: &[IpNet],
    gue_port: u16,
    want: Attach,
) -> Result<Option<u32>, Error> {
    let allow: BTreeSet<IpNet> = allow.iter().map(IpNet::trunc).collect();
    if allow.len() > abi::MAX_DECAP_PREFIXES as usize {
        return Err(Error::Prefixes {
            given: allow.len(),
            most: abi::MAX_DECAP_PREFIXES,
        });
    }
    let root = root.decap();
    let _lock = root.create_and_lock()?;
    let attached = attach_locked(&root, link, &allow, gue_port, want);
    if attached.is_err() && root.linked()?.is_empty() {
        root.remove()?;
    }
    attached
}

fn attach_locked(
    root: &Root,
    link: &Link,
    allow: &BTreeSet<IpNet>,
    gue_port: u16,
    want: Attach,
) -> Result<Option<u32>, Error> {
    let shapes = shape::decap();
    if shape::compare(root, &shapes)? == Pinned::Some {
        root.clear()?;
        root.create()?;
    }
    let mut ebpf = load_plain(root, LB_DECAP, &shapes)?;
    let program = program(&mut ebpf, abi::LB_DECAP)?;
    into_kernel(program).map_err(Error::program(abi::LB_DECAP))?;
    pin_program(program, &root.program())?;
    let path = root.link(&link.name);
    let mode = if path.exists() && replace(program, &path)? {
        None
    } else {
        // There may be one to an interface that is gone.
        remove_file(&path)?;
        Some(attach_new(program, link, want, &path)?)
    };
    // Last, so that a refused attach leaves the list of other interfaces alone.
    set_allowed(root, allow)?;
    let mut port: Port = open(root, map::DECAP_PORT)?;
    port.set(0, u32::from(gue_port), 0)
        .map_err(Error::map(map::DECAP_PORT))?;
    Ok(mode)
}

/// Adds what is new first, so that a source that stays is never refused; only where the old and the new don't fit
/// together, the old goes first.
fn set_allowed(root: &Root, allow: &BTreeSet<IpNet>) -> Result<(), Error> {
    let failed = Error::map(map::DECAP_ALLOW);
    let mut trie: Allow = open(root, map::DECAP_ALLOW)?;
    let present: Vec<_> = trie.keys().collect::<Result<_, _>>().map_err(failed)?;
    let stays = |key: &Key<Plain<Addr>>| net(key).is_some_and(|net| allow.contains(&net));
    let (kept, old): (Vec<_>, Vec<_>) = present.into_iter().partition(stays);
    let fits = kept.len().max(allow.len()) + old.len() <= abi::MAX_DECAP_PREFIXES as usize;
    let remove = |trie: &mut Allow| old.iter().try_for_each(|key| trie.remove(key)).map_err(failed);
    if !fits {
        remove(&mut trie)?;
    }
    for net in allow {
        trie.insert(&key(net), version(net), 0).map_err(failed)?;
    }
    if fits {
        remove(&mut trie)?;
    }
    Ok(())
}

/// A prefix as the program looks it up: v4-mapped.
fn key(net: &IpNet) -> Key<Plain<Addr>> {
    let extra = if matches!(net, IpNet::V4(_)) { 96 } else { 0 };
    Key::new(
        u32::from(net.prefix_len()) + extra,
        Plain(Addr::from(net.network())),
    )
}

/// The IP version of headers whose sources a prefix allows.
fn version(net: &IpNet) -> u32 {
    match net {
        IpNet::V4(_) => 4,
        IpNet::V6(_) => 6,
    }
}

fn net(key: &Key<Plain<Addr>>) -> Option<IpNet> {
    let Plain(addr) = key.data();
    let extra = if addr.is_v4() && key.prefix_len() >= 96 {
        96
    } else {
        0
    };
    let len = u8::try_from(key.prefix_len() - extra).ok()?;
    IpNet::new(addr.into(), len).ok()
}

/// Takes the decapsulator off one interface; off the last one, all of it. `false` where it was not attached.
pub fn detach(root: &Root, interface: &str) -> Result<bool, Error> {
    let root = root.decap();
    if !root.path().try_exists().map_err(Error::path(root.path()))? {
        return Ok(false);
    }
    let _lock = root.create_and_lock()?;
    let path = root.link(interface);
    let attached = path.try_exists().map_err(Error::path(&path))?;
    remove_file(&path)?;
    if root.linked()?.is_empty() {
        root.remove()?;
    }
    Ok(attached)
}

/// What the decapsulator does.
///
/// # Errors
/// [`Error::NotLoaded`] where there is none.
pub fn status(root: &Root) -> Result<Status, Error> {
    let root = root.decap();
    let trie: Allow = open(&root, map::DECAP_ALLOW)?;
    let done: Counters = open(&root, map::DECAP_STATS)?;
    let stops: Counters = open(&root, map::DECAP_STOPS)?;
    let rows: Vec<_> = trie
        .iter()
        .collect::<Result<_, _>>()
        .map_err(Error::map(map::DECAP_ALLOW))?;
    let port: Port = open(&root, map::DECAP_PORT)?;
    let port = port.get(&0, 0).map_err(Error::map(map::DECAP_PORT))?;
    let count = |what: u32| sum(&done, what).map_err(Error::map(map::DECAP_STATS));
    let stop = |&stop: &DecapStop| Ok((stop, sum(&stops, stop as u32)?));
    Ok(Status {
        interfaces: root.linked()?,
        allow: rows
            .iter()
            .filter_map(|(key, version)| Some((net(key)?, *version)))
            .collect(),
        gue_port: u16::try_from(port).ok().filter(|port| *port != 0),
        removed: count(stats::decap::REMOVED)?,
        second_chance: count(stats::decap::SECOND_CHANCE)?,
        stranger: count(stats::decap::STRANGER)?,
        stops: DecapStop::ALL
            .iter()
            .map(stop)
            .collect::<Result<_, MapError>>()
            .map_err(Error::map(map::DECAP_STOPS))?,
    })
}
