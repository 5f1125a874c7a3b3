//! Where things are pinned, and the lock on it.
//!
//! ```text
//! ROOT/maps/NAME        maps of lb_xdp
//! ROOT/links/INTERFACE  its links; a dot in the name, which bpffs doesn't take, is written `:`
//! ROOT/program          the program that was loaded last
//! ROOT/decap/...        the same for lb_decap
//! ROOT/probe/...        the same for lb_probe, without maps; where the kernel has no links for it,
//!                       filters/INTERFACE is the program that a filter there runs
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, FsWord, flock, fstatfs};

use super::Error;

/// Where the agent pins by default.
pub const DEFAULT_ROOT: &str = "/sys/fs/bpf/tandem";

/// `f_type` of a BPF file system (linux/magic.h).
const BPF_FS_MAGIC: FsWord = 0xcafe_4a11;

/// To look whether an agent lives takes the lock for a moment, which must not look like an agent; and one that ends keeps it for a moment
/// after its socket is gone.
const LOOKS_END_WITHIN: Duration = Duration::from_millis(500);

/// Between two attempts to get the lock.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A folder on a BPF file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

/// Held while an agent lives; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _dir: File,
}

impl Root {
    /// The folder at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where `lb_decap` pins.
    pub fn decap(&self) -> Self {
        Self(self.0.join("decap"))
    }

    /// Where `lb_probe` pins.
    pub fn probe(&self) -> Self {
        Self(self.0.join("probe"))
    }

    /// The folder of programs that run as filters.
    pub fn filters(&self) -> PathBuf {
        self.0.join("filters")
    }

    /// The pin of an interface's filter.
    pub fn filter(&self, interface: &str) -> PathBuf {
        self.filters().join(pinned_name(interface))
    }

    /// Interfaces that have a filter.
    pub fn filtered(&self) -> Result<Vec<String>, Error> {
        interfaces(&self.filters())
    }

    /// The pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.0.join("maps").join(name)
    }

    /// The folder of links.
    pub fn links(&self) -> PathBuf {
        self.0.join("links")
    }

    /// The pin of an interface's link.
    pub fn link(&self, interface: &str) -> PathBuf {
        self.links().join(pinned_name(interface))
    }

    /// Interfaces that have a link pinned.
    pub fn linked(&self) -> Result<Vec<String>, Error> {
        interfaces(&self.links())
    }

    /// The pin of the program.
    pub fn program(&self) -> PathBuf {
        self.0.join("program")
    }

    /// Makes the folders, readable by their owner alone.
    pub fn create(&self) -> Result<(), Error> {
        use std::os::unix::fs::DirBuilderExt;
        self.check()?;
        for dir in [self.0.clone(), self.0.join("maps"), self.links()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(Error::path(&dir))?;
        }
        Ok(())
    }

    /// Refuses a folder that is, or would be, on another file system.
    fn check(&self) -> Result<(), Error> {
        let exists = self.0.ancestors().find(|dir| dir.exists());
        let dir = exists
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let stat = File::open(dir)
            .and_then(|dir| Ok(fstatfs(dir)?))
            .map_err(Error::path(dir))?;
        if stat.f_type == BPF_FS_MAGIC {
            Ok(())
        } else {
            Err(Error::NotBpffs(self.0.clone()))
        }
    }

    /// Becomes the one live agent over this folder. The folder itself carries the lock: nothing is left behind.
    pub fn lock(&self) -> Result<Lock, Error> {
        let end = Instant::now() + LOOKS_END_WITHIN;
        loop {
            match self.try_lock(FlockOperation::NonBlockingLockExclusive) {
                Err(Error::Locked(_)) if Instant::now() < end => sleep(LOOK_EVERY),
                locked => return locked,
            }
        }
    }

    /// Makes the folders and waits for the lock: for work that is short.
    pub fn create_and_lock(&self) -> Result<Lock, Error> {
        loop {
            self.create()?;
            match self.try_lock(FlockOperation::LockExclusive) {
                // Whoever had it removed the folder.
                Err(Error::Locked(_)) => {}
                Err(Error::Path { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                locked => return locked,
            }
        }
    }

    fn try_lock(&self, how: FlockOperation) -> Result<Lock, Error> {
        let dir = File::open(&self.0).map_err(Error::path(&self.0))?;
        match flock(&dir, how) {
            Ok(()) if self.is(&dir)? => Ok(Lock { _dir: dir }),
            // Somebody detached between our opening the folder and locking it.
            Ok(()) => Err(Error::Locked(self.0.clone())),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked(self.0.clone())),
            Err(e) => Err(Error::path(&self.0)(e.into())),
        }
    }

    /// Whether `dir` is still the folder at our path.
    fn is(&self, dir: &File) -> Result<bool, Error> {
        let here = fs::metadata(&self.0).map_err(Error::path(&self.0))?;
        let locked = dir.metadata().map_err(Error::path(&self.0))?;
        Ok((here.dev(), here.ino()) == (locked.dev(), locked.ino()))
    }

    /// Whether an agent lives over this folder. Many may look at once.
    ///
    /// # Errors
    /// [`Error::NotLoaded`] where there is no folder, maybe since a moment ago.
    pub fn is_locked(&self) -> Result<bool, Error> {
        match self.try_lock(FlockOperation::NonBlockingLockShared) {
            Ok(_) => Ok(false),
            Err(Error::Locked(_)) => Ok(true),
            Err(Error::Path { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(Error::NotLoaded(self.0.clone()))
            }
            Err(e) => Err(e),
        }
    }

    /// Removes every pin, links first; the folder itself, which carries the lock, stays.
    pub fn clear(&self) -> Result<(), Error> {
        // Elsewhere these would be somebody's files.
        self.check()?;
        super::tunnel::detach(self)?;
        for dir in [self.links(), self.0.join("maps")] {
            remove_all(&dir)?;
        }
        remove_file(&self.program())
    }

    /// Removes every pin and the folder. What is attached ends with its link.
    pub fn remove(&self) -> Result<(), Error> {
        self.clear()?;
        match fs::remove_dir(&self.0) {
            Ok(()) => Ok(()),
            // A decapsulator lives beside us, or nothing was there.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(Error::path(&self.0)(e)),
        }
    }
}

/// An interface's name as bpffs takes it.
fn pinned_name(interface: &str) -> String {
    interface.replace('.', ":")
}

/// The interfaces that a folder has pins for, sorted.
fn interfaces(folder: &Path) -> Result<Vec<String>, Error> {
    let names = |dir: fs::ReadDir| -> io::Result<Vec<String>> {
        dir.map(|e| Ok(e?.file_name().to_string_lossy().replace(':', ".")))
            .collect()
    };
    let mut found = match fs::read_dir(folder).and_then(names) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(Error::path(folder)(e)),
    };
    found.sort();
    Ok(found)
}

pub(super) fn remove_all(dir: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::path(dir)(e)),
    };
    for entry in entries {
        remove_file(&entry.map_err(Error::path(dir))?.path())?;
    }
    fs::remove_dir(dir).map_err(Error::path(dir))
}

/// Removes a pin; one that isn't there is fine.
pub(super) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::path(path)(e)),
        _ => Ok(()),
    }
}
