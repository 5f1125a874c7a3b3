//! `lb_probe` at the egress of this host: loads, attaches, counts what it wrapped.
//!
//! It reads the balancer's backends and keeps no state of its own but counters, so an agent never adopts it: it loads
//! anew and replaces. Without an agent nobody marks packets, and it lets all pass.

use std::fs;
use std::mem::ManuallyDrop;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use aya::maps::{MapData, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::{self, map};
use lb_common::stats::Counter;

use super::Error;
use super::object::LB_PROBE;
use super::pin::{Root, remove_all, remove_file};
use super::pod::Plain;
use super::read::sum;
use crate::model::Capacity;

/// Where in the order of filters ours stands: after what others have for certain reasons, before what comes by default.
const PRIORITY: u16 = 0x7a1d;
/// The number of our filter there.
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// How a program comes to an interface's egress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// By a link that can be pinned; Linux 6.6 and newer.
    Link,
    /// By a filter of the `clsact` qdisc, in this network namespace.
    Filter,
}

impl Hook {
    /// What this kernel has.
    pub fn of_kernel() -> Self {
        match KernelVersion::current() {
            Ok(version) if version >= KernelVersion::new(6, 6, 0) => Self::Link,
            _ => Self::Filter,
        }
    }
}

/// The loaded program.
pub struct Tunnel {
    root: Root,
    hook: Hook,
    ebpf: Ebpf,
}

/// How many packets it wrapped.
pub struct Wrapped(PerCpuArray<MapData, Plain<Counter>>);

impl Tunnel {
    /// Loads the program over the pinned backends under `root`, which an agent has loaded.
    ///
    /// # Errors
    /// Where the kernel refuses it, or a pin can't be made.
    pub fn load(root: &Root, capacity: Capacity, hook: Hook) -> Result<(Self, Wrapped), Error> {
        let mut ebpf = EbpfLoader::new()
            .map_pin_path(map::BACKENDS, root.map(map::BACKENDS))
            .map_max_entries(map::BACKENDS, capacity.backend_indexes())
            .map_max_entries(map::PROBE_STATS, capacity.backend_indexes())
            .load(LB_PROBE)
            .map_err(|source| Error::Load {
                what: "the maps of lb_probe",
                source: Box::new(source),
            })?;
        let root = root.probe();
        for folder in [root.links(), root.filters()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(Error::path(&folder))?;
        }
        let program = program(&mut ebpf)?;
        program.load().map_err(Error::program(abi::LB_PROBE))?;
        pin(program, &root.program())?;
        let stats = ebpf
            .take_map(map::PROBE_STATS)
            .ok_or(Error::NoMap(map::PROBE_STATS))?;
        let stats = PerCpuArray::try_from(stats).map_err(Error::map(map::PROBE_STATS))?;
        Ok((Self { root, hook, ebpf }, Wrapped(stats)))
    }

    /// Attaches the program to exactly these interfaces: replaces, attaches, and detaches from others.
    ///
    /// # Errors
    /// Where an interface refuses it; others may have been attached to.
    pub fn attach(&mut self, interfaces: &[String]) -> Result<(), Error> {
        let is_other = |name: &&String| !interfaces.contains(name);
        for name in self.root.linked()?.iter().filter(is_other) {
            remove_file(&self.root.link(name))?;
        }
        for name in self.root.filtered()?.iter().filter(is_other) {
            unfilter(&self.root, name)?;
        }
        interfaces.iter().try_for_each(|name| match self.hook {
            Hook::Link => self.link(name),
            Hook::Filter => self.filter(name),
        })
    }

    fn link(&mut self, name: &str) -> Result<(), Error> {
        let path = self.root.link(name);
        let program = program(&mut self.ebpf)?;
        if path.try_exists().map_err(Error::path(&path))? && replace(program, &path)? {
            return Ok(());
        }
        // There may be one to an interface that is gone.
        remove_file(&path)?;
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program
            .attach_with_options(name, TcAttachType::Egress, order)
            .map_err(Error::program(name))?;
        let link = program.take_link(id).map_err(Error::program(name))?;
        let link = FdLink::try_from(link).map_err(|_| Error::Unpinnable(name.to_owned()))?;
        link.pin(&path).map(drop).map_err(|source| Error::Pin {
            path,
            source: Box::new(source),
        })
    }

    fn filter(&mut self, name: &str) -> Result<(), Error> {
        // One that is there, ours or another's, is as good.
        let _ = qdisc_add_clsact(name);
        let path = self.root.filter(name);
        let program = program(&mut self.ebpf)?;
        let known = SchedClassifierLink::attached(name, TcAttachType::Egress, PRIORITY, HANDLE, None)
            .map_err(|_| Error::NoInterface(name.to_owned()))?;
        let replaced = program.attach_to_link(known);
        let id = match replaced {
            Ok(id) => id,
            Err(_) => {
                let options = NlOptions {
                    priority: PRIORITY,
                    handle: HANDLE,
                    classid: None,
                };
                program
                    .attach_with_options(name, TcAttachType::Egress, TcAttachOptions::Netlink(options))
                    .map_err(Error::program(name))?
            }
        };
        // Dropped, it would detach; it ends with its pin, which says that it is there.
        let _kept = ManuallyDrop::new(program.take_link(id).map_err(Error::program(name))?);
        pin(program, &path)
    }
}

impl Wrapped {
    /// Packets wrapped towards a backend, by its index, over all CPUs.
    ///
    /// # Errors
    /// An index that the map doesn't have.
    pub fn counter(&self, backend: u16) -> Result<Counter, Error> {
        sum(&self.0, backend.into()).map_err(Error::map(map::PROBE_STATS))
    }
}

/// Takes the program off all interfaces, with its pins; filters only of this network namespace.
///
/// # Errors
/// Where a pin can't be removed.
pub fn detach(root: &Root) -> Result<(), Error> {
    let root = root.probe();
    if !root.path().try_exists().map_err(Error::path(root.path()))? {
        return Ok(());
    }
    for name in root.filtered()? {
        unfilter(&root, &name)?;
    }
    remove_all(&root.filters())?;
    remove_all(&root.links())?;
    remove_file(&root.program())?;
    fs::remove_dir(root.path()).map_err(Error::path(root.path()))
}

/// Interfaces that the program is attached to.
///
/// # Errors
/// Where the folder can't be read.
pub fn interfaces(root: &Root) -> Result<Vec<String>, Error> {
    let root = root.probe();
    let mut found = root.linked()?;
    found.extend(root.filtered()?);
    found.sort();
    Ok(found)
}

fn unfilter(root: &Root, name: &str) -> Result<(), Error> {
    // The interface may be gone, and the filter with it.
    let _ = qdisc_detach_program(name, TcAttachType::Egress, abi::LB_PROBE);
    remove_file(&root.filter(name))
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, Error> {
    let program = ebpf
        .program_mut(abi::LB_PROBE)
        .ok_or(Error::NoProgram(abi::LB_PROBE))?;
    program.try_into().map_err(Error::program(abi::LB_PROBE))
}

fn pin(program: &mut SchedClassifier, path: &Path) -> Result<(), Error> {
    remove_file(path)?;
    program.pin(path).map_err(|source| Error::Pin {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

/// Replaces the program of a pinned link; `false` where its interface is gone.
fn replace(program: &mut SchedClassifier, path: &Path) -> Result<bool, Error> {
    let failed = |source| Error::Link {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let link = FdLink::from(PinnedLink::from_pin(path).map_err(failed)?);
    let link = SchedClassifierLink::try_from(link).map_err(failed)?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // The pin alone keeps the link, so that removing the pin detaches.
            let kept = program.take_link(id);
            kept.map(drop)
                .map_err(Error::program(&path.display().to_string()))?;
            Ok(true)
        }
        Err(ProgramError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(e) => Err(Error::program(&path.display().to_string())(e)),
    }
}
