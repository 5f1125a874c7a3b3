//! Why the data plane could not be reached or changed.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::maps::xdp::XdpMapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use aya::programs::tc::TcError;

/// Why the data plane could not be reached or changed. Messages leave out their source: whoever prints one prints the
/// chain.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "every variant's message says what it is")]
pub enum Error {
    #[error("{path}")]
    Path { path: PathBuf, source: io::Error },
    #[error(
        "{0} is not on a BPF file system: mount one there (mount -t bpf bpf /sys/fs/bpf) or choose another --pin-root"
    )]
    NotBpffs(PathBuf),
    #[error(
        "another lbd is running over {0}: one live agent per pin root; stop it first, or choose another --pin-root (one that leaves its group runs until `lbctl leave --wait` ends)"
    )]
    Locked(PathBuf),
    #[error(
        "nothing is loaded under {0}: start lbd first, or name its --pin-root (a backend has no lbd: lbctl decap status)"
    )]
    NotLoaded(PathBuf),
    #[error("some maps under {0} are missing: withdraw this node, run `lbctl detach`, then start lbd")]
    Incomplete(PathBuf),
    #[error("the pinned map {name} has another shape ({found}, needed {needed}): {remedy}")]
    Shape {
        name: String,
        found: String,
        needed: String,
        remedy: &'static str,
    },
    #[error(
        "the maps under {path} have ABI version {found}, this program has {needed}: \
         stop traffic to this node, run `lbctl detach`, then start lbd"
    )]
    Abi { path: PathBuf, found: u32, needed: u32 },
    #[error(
        "the group key differs from the one of the running data plane, and changing it moves every flow: \
         withdraw this node, stop lbd, run `lbctl detach`, then start lbd with the new key"
    )]
    Key,
    #[error("the kernel refused {what}")]
    Load {
        what: &'static str,
        source: Box<EbpfError>,
    },
    #[error("the object holds no program {0}")]
    NoProgram(&'static str),
    #[error("the object holds no map {0}")]
    NoMap(&'static str),
    #[error("the program returned {0}, which is no verdict")]
    Verdict(u32),
    #[error("XDP: {name}")]
    Program { name: String, source: Box<ProgramError> },
    #[error(
        "interface {0}: the driver has no native XDP; attach it with `auto`, which falls back to the slower generic mode"
    )]
    NoNative(String),
    #[error(
        "interface {0}: another XDP program is attached to it, or to an interface on top of it; take that off first \
         (ip link set dev {0} xdp off)"
    )]
    Busy(String),
    #[error("interface {0}: no such interface")]
    NoInterface(String),
    #[error(
        "interface {0}: the kernel gave a link that can't be pinned, so it would not outlive the agent; Linux 5.9 or newer is needed"
    )]
    Unpinnable(String),
    #[error("map {name}")]
    Map {
        name: &'static str,
        source: Box<MapError>,
    },
    #[error("the VIP table has no room left")]
    Full,
    #[error("{given} prefixes are too many, lb_decap can allow {most}: name longer ranges")]
    Prefixes { given: usize, most: u32 },
    #[error("interface {ifindex} can't be a target of redirects")]
    Device { ifindex: u32, source: Box<XdpMapError> },
    #[error("pin {path}")]
    Pin { path: PathBuf, source: Box<PinError> },
    #[error("link {path}")]
    Link { path: PathBuf, source: Box<LinkError> },
    #[error("tc")]
    Tc(#[from] TcError),
    #[error("map {name}: mmap")]
    Memory { name: &'static str, source: io::Error },
}

impl Error {
    pub(super) fn path(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Path { path, source }
    }

    pub(super) fn map(name: &'static str) -> impl Fn(MapError) -> Self + Copy {
        move |source| Self::Map {
            name,
            source: Box::new(source),
        }
    }

    pub(super) fn program(name: &str) -> impl FnOnce(ProgramError) -> Self {
        let name = name.to_owned();
        move |source| Self::Program {
            name,
            source: Box::new(source),
        }
    }
}
