//! Loads `lb_xdp` over new maps, or over those that an earlier agent left.

use std::io::ErrorKind;
use std::path::Path;

use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use lb_common::abi::{self, map};
use lb_common::admit::{FULL, UDP_FULL};
use lb_common::info::{Meta, text};
use lb_common::{hash, vip};
use rustix::rand::{GetRandomFlags, getrandom};
use zerocopy::IntoBytes;

use super::Error;
use super::maps::{Maps, claim, open};
use super::object::LB_XDP;
use super::pin::{Root, remove_file};
use super::pod::Plain;
use super::shape::{self, Pinned, Shape};
use crate::model::{Capacity, GroupKey, Name, Vip};

/// What a load needs to know.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Sizes of the maps.
    pub capacity: Capacity,
    /// The group's key; `None`: the one in the maps, or a new one.
    pub key: Option<&'a GroupKey>,
    /// Whose maps these are.
    pub node: &'a Name,
    /// aya-log's level, 0 = off: the verifier then removes the calls.
    pub log_level: u8,
}

/// The loaded program and its maps.
pub struct Balancer {
    pub(super) root: Root,
    pub(super) ebpf: Ebpf,
    /// Its maps.
    pub maps: Maps,
    /// Whether the maps were there already.
    pub adopted: bool,
}

impl Balancer {
    /// Loads the program. The caller holds the lock of `root`.
    pub fn load(root: &Root, plan: &Plan<'_>) -> Result<Self, Error> {
        let before = adoptable(root, plan)?;
        let replicas = replicas(plan, before.as_ref());
        let shapes = shape::balancer(plan.capacity, replicas);
        let key = match (&before, plan.key) {
            (Some(meta), _) => GroupKey::new(meta.group_key),
            (None, Some(key)) => key.clone(),
            (None, None) => random_key(),
        };
        let flow_key = hash::Key::expand(key.bytes());
        let vip_shift = vip::shift(vip::cells(plan.capacity.vips));
        let mut ebpf = loader(root, &shapes)
            .override_global(abi::FLOW_KEY, flow_key.as_bytes(), true)
            .override_global(abi::VIP_SHIFT, &vip_shift, true)
            .override_global(aya_log::LEVEL, &plan.log_level, true)
            .load(LB_XDP)
            .map_err(maps_refused)?;
        verify(root, &mut ebpf)?;
        let adopted = before.is_some();
        if !adopted {
            claim(root, facts(plan, replicas, &key))?;
        }
        let mut maps = Maps::open(root)?;
        // Nobody reads events yet, whatever an earlier agent did; a table that it found full still is.
        let flags = maps.limits()?.flags & (FULL | UDP_FULL);
        maps.set_limits(maps.new_limits(flags, Vip::DEFAULT_IDLE))?;
        Ok(Self {
            root: root.clone(),
            ebpf,
            maps,
            adopted,
        })
    }

    /// The loaded object, for the log bridge.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    pub(super) fn program(&mut self) -> Result<&mut Xdp, Error> {
        program(&mut self.ebpf, abi::LB_XDP)
    }
}

/// Entries of the map of replicas. What a node without a key has already is enough for it.
fn replicas(plan: &Plan<'_>, before: Option<&Meta>) -> u32 {
    match (plan.key, before) {
        (Some(_), _) => abi::replicas(plan.capacity.flows),
        (None, Some(meta)) => meta.replicas,
        (None, None) => abi::NO_REPLICAS,
    }
}

/// The facts of pinned maps that can be adopted; `None` where new ones are to be made.
fn adoptable(root: &Root, plan: &Plan<'_>) -> Result<Option<Meta>, Error> {
    shape::check_meta(root)?;
    let meta = match open::<Array<MapData, Plain<Meta>>>(root, map::META) {
        Ok(meta) => meta.get(&0, 0).map_err(Error::map(map::META))?.0,
        Err(Error::NotLoaded(_)) => Meta::default(),
        Err(e) => return Err(e),
    };
    if meta.abi != 0 && meta.abi != abi::ABI_VERSION {
        return Err(Error::Abi {
            path: root.path().to_owned(),
            found: meta.abi,
            needed: abi::ABI_VERSION,
        });
    }
    if meta.abi == 0 && !root.linked()?.is_empty() {
        // A program runs over maps whose pins were taken away: replacing it would move every flow.
        return Err(Error::Incomplete(root.path().to_owned()));
    }
    if meta.abi == 0 {
        // Nothing, or the half of an agent that died while it loaded: nothing is attached to that.
        root.clear()?;
        root.create()?;
        return Ok(None);
    }
    if plan.key.is_some_and(|key| meta.group_key != *key.bytes()) {
        return Err(Error::Key);
    }
    let shapes = shape::balancer(plan.capacity, replicas(plan, Some(&meta)));
    match shape::compare(root, &shapes)? {
        Pinned::All => Ok(Some(meta)),
        Pinned::Some | Pinned::None => Err(Error::Incomplete(root.path().to_owned())),
    }
}

/// A loader that gives an object's maps their shapes and pins them.
fn loader<'a>(root: &Root, shapes: &'a [Shape]) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    for shape in shapes {
        loader
            .map_max_entries(shape.name, shape.entries)
            .map_pin_path(shape.name, root.map(shape.name));
    }
    loader
}

/// Loads an object without constants; its programs are not verified yet.
pub(super) fn load_plain(root: &Root, object: &[u8], shapes: &[Shape]) -> Result<Ebpf, Error> {
    loader(root, shapes).load(object).map_err(maps_refused)
}

fn maps_refused(source: EbpfError) -> Error {
    Error::Load {
        what: "the maps",
        source: Box::new(source),
    }
}

/// Has the kernel verify the program, and pins it.
fn verify(root: &Root, ebpf: &mut Ebpf) -> Result<(), Error> {
    let program = program(ebpf, abi::LB_XDP)?;
    into_kernel(program).map_err(Error::program(abi::LB_XDP))?;
    pin_program(program, &root.program())
}

/// Has the kernel verify a program. A signal that comes meanwhile ends that with `EAGAIN`, so it is tried again, as often as
/// libbpf does.
pub(super) fn into_kernel(program: &mut Xdp) -> Result<(), ProgramError> {
    const TRIES: u32 = 5;
    let mut result = program.load();
    for _ in 1..TRIES {
        match &result {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == ErrorKind::WouldBlock => {
                result = program.load();
            }
            _ => break,
        }
    }
    result
}

pub(super) fn pin_program(program: &mut Xdp, path: &Path) -> Result<(), Error> {
    remove_file(path)?;
    program.pin(path).map_err(|source| Error::Pin {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, Error> {
    let program = ebpf.program_mut(name).ok_or(Error::NoProgram(name))?;
    program.try_into().map_err(Error::program(name))
}

fn facts(plan: &Plan<'_>, replicas: u32, key: &GroupKey) -> Meta {
    Meta {
        abi: abi::ABI_VERSION,
        pools: plan.capacity.pools,
        vips: plan.capacity.vips,
        backends: plan.capacity.backends,
        flows: plan.capacity.flows,
        replicas,
        group_key: *key.bytes(),
        node: text(plan.node.as_str()),
        ..Meta::default()
    }
}

fn random_key() -> GroupKey {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())
            .expect("the kernel's generator is seeded");
    }
    GroupKey::new(bytes)
}
