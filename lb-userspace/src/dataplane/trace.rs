//! A copy of the running program, for frames that nobody sent.
//!
//! The copy is loaded from the same object and shares the maps that the program reads. All others are its own, and go
//! with it: counters, events, what no program reads. So whatever it does, nobody else sees it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use aya::maps::{MapData, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramInfo, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::{self, map};
use lb_common::slot::{Slot, index};
use lb_common::stats::Counter;
use lb_common::stop::Stop;
use lb_common::{hash, vip};
use rustix::fs::{Mode, OFlags, open};
use zerocopy::IntoBytes;

use super::Error;
use super::load::program;
use super::maps::Maps;
use super::object::LB_XDP;
use super::pin::Root;
use super::pod::Plain;
use super::read::sum;
use super::shape;
use crate::trace::{Run, Verdict};

/// What the program reads of packets' ways. It writes none of these.
const SHARED: [&str; 4] = [map::VIPS, map::SLOTS, map::BACKENDS, map::DEVICES];

/// Room for an outer header in what a run leaves.
const GROWS_BY: usize = 64;

/// A copy of the program.
pub struct Copy {
    ebpf: Ebpf,
    stops: PerCpuArray<MapData, Plain<Counter>>,
}

impl Copy {
    /// Loads a copy of the program of this binary over the pinned maps under `root`.
    ///
    /// # Errors
    /// Where a pin is gone, or the kernel refuses the program.
    pub fn load(root: &Root, maps: &Maps) -> Result<Self, Error> {
        let key = hash::Key::expand(&maps.meta()?.group_key);
        let vip_shift = vip::shift(vip::cells(maps.capacity().vips));
        let shapes = shape::balancer(maps.capacity());
        let mut loader = EbpfLoader::new();
        for shape in &shapes {
            loader.map_max_entries(shape.name, shape.entries);
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
        program(&mut ebpf, abi::LB_XDP)?
            .load()
            .map_err(Error::program("a copy of lb_xdp"))?;
        let stops = ebpf.take_map(map::STOPS).ok_or(Error::NoMap(map::STOPS))?;
        let stops = stops.try_into().map_err(Error::map(map::STOPS))?;
        Ok(Self { ebpf, stops })
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

    /// Runs it over a frame as if that came in by an interface of this network namespace.
    ///
    /// # Errors
    /// Where the kernel refuses the run: the frame has an impossible length, or the interface is not here.
    pub fn run(&mut self, frame: &[u8], ingress: u32) -> Result<Run, Error> {
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
        ];
        let mut all = [&SHARED[..], &own].concat();
        all.sort_unstable();
        let mut known = map::ALL;
        known.sort_unstable();
        assert_eq!(all, known);
    }
}
