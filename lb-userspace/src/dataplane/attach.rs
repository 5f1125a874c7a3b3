//! Links: native first, generic where the driver has nothing better, pinned always.

use std::thread::sleep;
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId, XdpMode};
use aya::programs::{ProgramError, Xdp};
use lb_common::abi::map;
use lb_common::info::{self, mode, text};

use super::Error;
use super::load::Balancer;
use super::pin::{Root, remove_file};
use super::pod::Plain;
use crate::model::Attach;
use crate::net::Link;

/// The kernel ends a link in a work queue, so a moment after its last pin was removed.
const OLD_LINK_ENDS_WITHIN: Duration = Duration::from_millis(500);

/// Between two attempts to attach.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What became of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// The program of a running link was replaced; no packet saw none.
    Replaced {
        /// [`mode`].
        mode: u32,
    },
    /// A new link.
    New {
        /// [`mode`].
        mode: u32,
    },
}

impl Balancer {
    /// Whether packets of any of these interfaces come to the program: a link lives as long as its pin.
    pub fn is_attached(&self, links: &[Link]) -> bool {
        links.iter().any(|link| self.root.link(&link.name).exists())
    }

    /// Attaches the program to exactly these interfaces: replaces, attaches, and detaches from others.
    pub fn attach(&mut self, links: &[Link], want: Attach) -> Result<Vec<Attached>, Error> {
        let before = self.maps.interfaces()?;
        let mut attached = Vec::with_capacity(links.len());
        let mut rows = Vec::with_capacity(links.len());
        for link in links {
            let done = match self.attach_one(link, want, known(&before, link)) {
                Ok(done) => done,
                Err(e) => {
                    self.undo(links, &rows, &before);
                    return Err(e);
                }
            };
            let (Attached::Replaced { mode } | Attached::New { mode }) = done;
            let (ifindex, mtu) = (link.ifindex, link.mtu);
            rows.push(info::Interface {
                ifindex,
                mode,
                mtu,
                pad: 0,
                name: text(&link.name),
            });
            attached.push(done);
        }
        self.write_interfaces(&rows)?;
        for name in self.root.linked()? {
            if !links.iter().any(|l| l.name == name) {
                remove_file(&self.root.link(&name))?;
            }
        }
        Ok(attached)
    }

    fn attach_one(&mut self, link: &Link, want: Attach, known: Option<u32>) -> Result<Attached, Error> {
        let path = self.root.link(&link.name);
        let keeps = |m: u32| match want {
            Attach::Auto => true,
            Attach::Native => m == mode::NATIVE,
            Attach::Generic => m == mode::GENERIC,
        };
        let program = self.program()?;
        if let Some(mode) = known.filter(|&m| keeps(m))
            && path.exists()
            && replace(program, &path)?
        {
            return Ok(Attached::Replaced { mode });
        }
        // A link to an interface that is gone, or in the wrong mode. The kernel has no change of the mode, so packets
        // pass by for a moment.
        remove_file(&path)?;
        match (attach_new(program, link, want, &path), known) {
            (Ok(mode), _) => Ok(Attached::New { mode }),
            (Err(e), None) => Err(e),
            (Err(e), Some(mode)) => {
                // The first error is the one that says what to do.
                let _ = attach_new(program, link, in_mode(mode), &path);
                Err(e)
            }
        }
    }

    /// Takes back what was done to the first of `links`, as far as the kernel lets us.
    fn undo(&mut self, links: &[Link], done: &[info::Interface], before: &[info::Interface]) {
        for (link, row) in links.iter().zip(done) {
            let known = known(before, link);
            if known == Some(row.mode) {
                continue;
            }
            let path = self.root.link(&link.name);
            let _ = remove_file(&path);
            if let (Some(mode), Ok(program)) = (known, self.program()) {
                let _ = attach_new(program, link, in_mode(mode), &path);
            }
        }
    }

    fn write_interfaces(&mut self, rows: &[info::Interface]) -> Result<(), Error> {
        let map = &mut self.maps.iface_info;
        for index in 0..map.len() {
            let row = rows.get(index as usize).copied().unwrap_or_default();
            map.set(index, Plain(row), 0)
                .map_err(Error::map(map::IFACE_INFO))?;
        }
        Ok(())
    }
}

/// The mode in which an interface was attached.
fn known(before: &[info::Interface], link: &Link) -> Option<u32> {
    let is = |row: &&info::Interface| info::untext(&row.name) == link.name && row.ifindex == link.ifindex;
    before.iter().find(is).map(|row| row.mode)
}

fn in_mode(mode: u32) -> Attach {
    if mode == mode::NATIVE {
        Attach::Native
    } else {
        Attach::Generic
    }
}

/// Replaces the program of a pinned link; `false` where its interface is gone.
pub(super) fn replace(program: &mut Xdp, path: &std::path::Path) -> Result<bool, Error> {
    let failed = |source| Error::Link {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let link = FdLink::from(PinnedLink::from_pin(path).map_err(failed)?);
    let link = XdpLink::try_from(link).map_err(failed)?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // The pin alone keeps the link, so that removing the pin detaches: aya would hold on to it.
            program
                .take_link(id)
                .map_err(Error::program(&path.display().to_string()))?;
            Ok(true)
        }
        Err(ProgramError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(e) => Err(Error::program(&path.display().to_string())(e)),
    }
}

/// Attaches to an interface that has no link of ours, and pins the link.
pub(super) fn attach_new(
    program: &mut Xdp,
    link: &Link,
    want: Attach,
    path: &std::path::Path,
) -> Result<u32, Error> {
    let first = if want == Attach::Generic {
        XdpMode::Skb
    } else {
        XdpMode::Driver
    };
    let (id, mode) = match attach_when_free(program, link, first) {
        Ok(id) if first == XdpMode::Driver => (id, mode::NATIVE),
        Ok(id) => (id, mode::GENERIC),
        Err(e) if is(&e, libc::EOPNOTSUPP) && want == Attach::Auto => {
            let id = attach_when_free(program, link, XdpMode::Skb).map_err(|e| refused(link, e))?;
            (id, mode::GENERIC)
        }
        Err(e) => return Err(refused(link, e)),
    };
    let owned = program.take_link(id).map_err(Error::program(&link.name))?;
    // Where the kernel has no XDP links aya attaches by netlink; that can't be pinned, and dropping it detaches.
    let fd = FdLink::try_from(owned).map_err(|_| Error::Unpinnable(link.name.clone()))?;
    fd.pin(path).map_err(|source| Error::Pin {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    Ok(mode)
}

/// Attaches, after a moment where a link is just ending.
fn attach_when_free(program: &mut Xdp, link: &Link, mode: XdpMode) -> Result<XdpLinkId, ProgramError> {
    let end = Instant::now() + OLD_LINK_ENDS_WITHIN;
    loop {
        match program.attach_to_if_index(link.ifindex, mode) {
            Err(e) if is_busy(&e) && Instant::now() < end => sleep(LOOK_EVERY),
            done => return done,
        }
    }
}

/// Another program is attached, in the same mode or in another.
fn is_busy(error: &ProgramError) -> bool {
    is(error, libc::EBUSY) || is(error, libc::EEXIST)
}

fn is(error: &ProgramError, errno: i32) -> bool {
    matches!(error, ProgramError::SyscallError(e) if e.io_error.raw_os_error() == Some(errno))
}

fn refused(link: &Link, error: ProgramError) -> Error {
    if is(&error, libc::EOPNOTSUPP) {
        Error::NoNative(link.name.clone())
    } else if is_busy(&error) {
        Error::Busy(link.name.clone())
    } else {
        Error::program(&link.name)(error)
    }
}

/// Takes the balancer off this host: every link, map and pin. With an agent `alive` the folder stays, since it carries
/// the agent's lock.
pub fn detach(root: &Root, alive: bool) -> Result<Vec<String>, Error> {
    let interfaces = root.linked()?;
    if alive {
        root.clear()?;
    } else {
        root.remove()?;
    }
    Ok(interfaces)
}
