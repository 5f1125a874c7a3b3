//! A copy of the running program, for frames that nobody sent.
//!
//! The copy is loaded from the same object and shares the maps that the program only reads. All others are its own, and
//! go with it: counters, events, what no program reads, and the whole flow table. So whatever it does, nobody else sees
//! it. Before each run its flow table is filled with what is known of the frame's flow, and nothing else, so that this
//! decides as it does in the running program; marks of slots decide on no packet, and budgets count as not used up.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramInfo, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::{self, map};
use lb_common::admit::{EVENTS, Limits};
use lb_common::slot::{Slot, index};
use lb_common::stats::Counter;
use lb_common::stop::Stop;
use lb_common::tick::Tick;
use lb_common::{flow, hash, vip};
use rustix::fs::{Mode, OFlags, open};
use zerocopy::IntoBytes;

use super::Error;
use super::flows::{Entries, Table, tables_of};
use super::load::{into_kernel, program};
use super::maps::Maps;
use super::object::LB_XDP;
use super::pin::Root;
use super::pod::Plain;
use super::read::sum;
use super::shape::{self, Shape};
use super::write::absent;
use crate::trace::{Known, Run, Verdict};

/// What the program reads of packets' ways. It writes none of these.
const SHARED: [&str; 4] = [map::VIPS, map::SLOTS, map::BACKENDS, map::DEVICES];

/// Entries of the copy's own flow table, which holds one flow: enough for the kernel to find a free one on any CPU.
const OWN_ENTRIES: u32 = 64;
/// Bytes of its ring buffer, which nobody reads: the least on any machine.
const OWN_EVENTS: u32 = 1 << 16;

/// Room for an outer header in what a run leaves.
const GROWS_BY: usize = 64;

/// A copy of the program.
pub struct Copy {
    ebpf: Ebpf,
    stops: PerCpuArray<MapData, Plain<Counter>>,
    /// In the order of [`Table::ALL`].
    tables: [Entries; 5],
    misses: HashMap<MapData, Plain<flow::Key>, Plain<Tick>>,
    limits: Array<MapData, Plain<Limits>>,
    /// The flow that was copied for the last run.
    last: Option<flow::Key>,
}

impl Copy {
    /// Loads a copy of the program of this binary over the pinned maps under `root`.
    ///
    /// # Errors
    /// Where a pin is gone, or the kernel refuses the program.
    pub fn load(root: &Root, maps: &Maps) -> Result<Self, Error> {
        let key = hash::Key::expand(&maps.meta()?.group_key);
        let vip_shift = vip::shift(vip::cells(maps.capacity().vips));
        let mut loader = EbpfLoader::new();
        for shape in maps.shapes() {
            loader.map_max_entries(shape.name, entries(shape));
        }
        let mut pins = Vec::new();
        for name in SHARED {
            let pin = hold(root, name)?;
            // aya makes and pins a map where it finds none. By this name it finds the one that we hold, or nothing can
            // be made: a data plane that is detached at this moment leaves no pins behind.
            let path = PathBuf::from(format!("/proc/self/fd/{}", pin.as_raw_fd()));
            loader.map_pin_path(name, path);
            pins.push(pin);
        }
        let refused = |source| Error::Load {
            what: "the maps of a copy",
            source: Box::new(source),
        };
        let mut ebpf = loader
            .override_global(abi::FLOW_KEY, key.as_bytes(), true)
            .override_global(abi::VIP_SHIFT, &vip_shift, true)
            .override_global(aya_log::LEVEL, &0u8, true)
            .load(LB_XDP)
            .map_err(refused)?;
        into_kernel(program(&mut ebpf, abi::LB_XDP)?).map_err(Error::program("a copy of lb_xdp"))?;
        let [a, b, c, d, e] = Table::ALL.map(|table| take(&mut ebpf, table.name()));
        Ok(Self {
            stops: take(&mut ebpf, map::STOPS)?,
            tables: [a?, b?, c?, d?, e?],
            misses: take(&mut ebpf, map::MISSES)?,
            limits: take(&mut ebpf, map::LIMITS)?,
            last: None,
            ebpf,
        })
    }

    /// Whether the program that runs on `interface` has the same instructions as this copy.
    ///
    /// # Errors
    /// Where the kernel can't be asked.
    pub fn is_what_runs(&mut self, root: &Root, interface: &str) -> Result<bool, Error> {
        let own = self.program()?.info().map_err(Error::program(abi::LB_XDP))?;
        let pinned = ProgramInfo::from_pin(root.program()).map_err(Error::program(abi::LB_XDP))?;
        let path = root.link(interface);
        let failed = |source| Error::Link {
            path: path.clone(),
            source: Box::new(source),
        };
        let link = FdLink::from(PinnedLink::from_pin(&path).map_err(failed)?);
        let linked = link.info().map_err(failed)?.program_id();
        Ok(linked == pinned.id() && own.tag() == pinned.tag())
    }

    /// Runs it over a frame as if that came in by an interface of this network namespace; `known` is what the flow table
    /// says about its flow.
    ///
    /// # Errors
    /// Where the kernel refuses the run: the frame has an impossible length, or the interface is not here.
    pub fn run(&mut self, frame: &[u8], ingress: u32, known: Option<&Known>) -> Result<Run, Error> {
        self.learn(known)?;
        let before = self.counted()?;
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, ingress, 0, 0];
        let mut left = vec![0; frame.len() + GROWS_BY];
        let result = self
            .program()?
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut left),
                ctx_in: Some(context.as_bytes()),
                ..TestRunOptions::default()
            })
            .map_err(Error::program("a copy of lb_xdp"))?;
        left.truncate(result.data_size_out as usize);
        let after = self.counted()?;
        let stopped = Stop::ALL.iter().zip(before.iter().zip(&after));
        let stop = stopped.clone().find(|(_, (before, after))| before != after);
        Ok(Run {
            verdict: Verdict::of(result.return_value).ok_or(Error::Verdict(result.return_value))?,
            stop: stop.map(|(stop, _)| *stop),
            frame: left,
        })
    }

    /// Makes the copy's flow table hold this flow alone.
    fn learn(&mut self, known: Option<&Known>) -> Result<(), Error> {
        if let Some(key) = self.last.take().map(Plain) {
            for (entries, table) in self.tables.iter_mut().zip(Table::ALL) {
                absent(entries.remove(&key)).map_err(Error::map(table.name()))?;
            }
            absent(self.misses.remove(&key)).map_err(Error::map(map::MISSES))?;
        }
        let Some(known) = known else {
            return Ok(());
        };
        self.last = Some(known.key);
        let [own, probation] = tables_of(known.key.proto);
        for (table, entry) in [
            (own, known.own),
            (Table::Replicas, known.replica),
            (probation, known.probation),
        ] {
            if let Some(entry) = entry {
                let result = self.tables[table as usize].insert(Plain(known.key), Plain(entry), 0);
                result.map_err(Error::map(table.name()))?;
            }
        }
        if let Some(missed) = known.missed {
            let result = self.misses.insert(Plain(known.key), Plain(missed), 0);
            result.map_err(Error::map(map::MISSES))?;
        }
        // Nobody reads the copy's events, and a full table is the running program's.
        let limits = Limits {
            flags: known.limits.flags & !EVENTS,
            ..known.limits
        };
        self.limits
            .set(0, Plain(limits), 0)
            .map_err(Error::map(map::LIMITS))
    }

    fn program(&mut self) -> Result<&mut Xdp, Error> {
        program(&mut self.ebpf, abi::LB_XDP)
    }

    /// Packets of each stop reason.
    fn counted(&self) -> Result<Vec<u64>, Error> {
        let packets = |&stop: &Stop| sum(&self.stops, stop as u32).map(|counter| counter.packets);
        Stop::ALL
            .iter()
            .map(packets)
            .collect::<Result<_, _>>()
            .map_err(Error::map(map::STOPS))
    }
}

/// Entries of one of the copy's maps: what it fills and marks is small.
fn entries(shape: &Shape) -> u32 {
    match shape.name {
        map::FLOWS | map::REPLICAS | map::UDP_FLOWS | map::MISSES => OWN_ENTRIES,
        map::PROBATION | map::UDP_PROBATION => OWN_ENTRIES * shape::cpus(),
        map::USES => 1,
        map::EVENTS => OWN_EVENTS,
        _ => shape.entries,
    }
}

fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, Error>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(Error::NoMap(name))?;
    T::try_from(map).map_err(Error::map(name))
}

/// Keeps hold of a pinned map without opening it.
fn hold(root: &Root, name: &str) -> Result<OwnedFd, Error> {
    let path = root.map(name);
    open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| Error::path(&path)(e.into()))
}

impl Maps {
    /// One slot of a pool's ring; `None` beyond the map.
    pub fn slot(&self, pool: u16, number: u32) -> Option<Slot> {
        let exists = u32::from(pool) < self.capacity.pools;
        exists.then(|| Slot(self.slots.load(index(pool, number) as usize)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map that comes later has to be thought about: whether the copy shares it, or has its own.
    #[test]
    fn every_map_is_shared_or_its_own() {
        let own = [
            map::VIP_STATS,
            map::BACKEND_STATS,
            map::STOPS,
            map::META,
            map::POOL_INFO,
            map::BACKEND_INFO,
            map::IFACE_INFO,
            map::FLOWS,
            map::REPLICAS,
            map::PROBATION,
            map::UDP_FLOWS,
            map::UDP_PROBATION,
            map::MISSES,
            map::USES,
            map::BUDGETS,
            map::EVENTS,
            map::LOST,
            map::LIMITS,
            map::PICKS,
        ];
        let mut all = [&SHARED[..], &own].concat();
        all.sort_unstable();
        let mut known = map::ALL;
        known.sort_unstable();
        assert_eq!(all, known);
    }
}
