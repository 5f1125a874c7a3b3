//! Whose lab is whose: names that are unique per run, the claim that keeps a lab from being removed,
//! and the removal of labs that nobody claims any more.
//!
//! A lab with the id `ID` (`<pid>`, or `<pid>-<n>` for a further one of the same process) owns
//! - the folder `/run/tandem-lab/ID` with configs, logs and the files `lock` and, once kept, `kept`,
//! - the namespaces `tandem.ID.<role>` and every process in them,
//! - the bpffs folder `/sys/fs/bpf/tandem-lab-ID`.
//!
//! Its process holds an exclusive `flock` on `lock`; the kernel lets go of it however the process ends,
//! so a lab whose lock can be taken belongs to nobody (a process id alone would not do: ids are reused).

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::command;
use crate::error::{IoContext, LabError};
use crate::netns::{self, Netns};
use crate::wait;

/// Folder of all labs' files; not persistent, like the namespaces themselves.
const RUN_DIR: &str = "/run/tandem-lab";
/// The bpf file system.
pub const BPFFS: &str = "/sys/fs/bpf";
/// No dot: bpffs refuses names with one.
const BPF_PREFIX: &str = "tandem-lab-";
const NETNS_PREFIX: &str = "tandem.";
/// f_type of bpffs (`BPF_FS_MAGIC` in linux/magic.h).
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

/// The name of one lab on this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabId(String);

impl LabId {
    fn new(pid: u32, nth: u32) -> Self {
        Self(if nth == 0 {
            pid.to_string()
        } else {
            format!("{pid}-{nth}")
        })
    }

    /// Only what [`LabId::new`] makes: nothing else is ever removed.
    fn parse(text: &str) -> Option<Self> {
        let (pid, nth) = text.split_once('-').unwrap_or((text, "0"));
        let number = |t: &str| {
            t.bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| t.parse::<u32>().ok())
                .flatten()
        };
        let id = Self::new(number(pid)?, number(nth)?);
        (id.0 == text).then_some(id)
    }

    /// The id in a namespace's name `tandem.ID.ROLE`.
    fn of_netns(name: &str) -> Option<Self> {
        let (id, role) = name.strip_prefix(NETNS_PREFIX)?.split_once('.')?;
        if role.is_empty() { None } else { Self::parse(id) }
    }

    /// The namespace of a role such as `client` or `lb1`.
    pub fn netns(&self, role: &str) -> Netns {
        Netns::named(format!("{NETNS_PREFIX}{self}.{role}"))
    }

    /// All namespaces of this lab that exist.
    pub fn namespaces(&self) -> Vec<Netns> {
        netns::list(|name| Self::of_netns(name).as_ref() == Some(self))
    }

    /// Folder for configs and logs.
    pub fn dir(&self) -> PathBuf {
        Path::new(RUN_DIR).join(&self.0)
    }

    /// Folder for pins; every node has a folder of its own below it.
    pub fn pins(&self) -> PathBuf {
        Path::new(BPFFS).join(format!("{BPF_PREFIX}{self}"))
    }
}

impl fmt::Display for LabId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A lab that is this process's. Dropping it removes everything that the lab owns, unless it is kept.
#[derive(Debug)]
pub struct Claim {
    id: LabId,
    kept: bool,
    _lock: File,
}

impl Claim {
    /// Takes a free id for this process and makes its folders. Mounts bpffs where it is missing.
    pub fn take() -> Result<Self, LabError> {
        if !rustix::process::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        mount_bpffs()?;
        let _all = lock_all()?;
        let mut nth = 0;
        let id = loop {
            let id = LabId::new(std::process::id(), nth);
            match fs::create_dir(id.dir()) {
                Ok(()) => break id,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => nth += 1,
                Err(e) => return Err(e).context(|| format!("make {}", id.dir().display())),
            }
        };
        let lock = open_lock(&id.dir().join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .context(|| format!("lock {}", id.dir().display()))?;
        let pins = id.pins();
        fs::create_dir(&pins).context(|| format!("make {}", pins.display()))?;
        Ok(Self {
            id,
            kept: false,
            _lock: lock,
        })
    }

    /// The lab's id.
    pub fn id(&self) -> &LabId {
        &self.id
    }

    /// Leaves everything standing when dropped, until [`remove_kept`].
    pub fn keep(&mut self) -> Result<(), LabError> {
        let mark = self.id.dir().join("kept");
        fs::write(&mark, "").context(|| format!("write {}", mark.display()))?;
        self.kept = true;
        Ok(())
    }

    /// Whether [`Claim::keep`] was called.
    pub fn kept(&self) -> bool {
        self.kept
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = lock_all().and_then(|_all| remove(&self.id)) {
            eprintln!(
                "lab {}: not all could be removed: {error}; the next run tries again",
                self.id
            );
        }
    }
}

/// What [`remove_abandoned`] and [`remove_kept`] found.
#[derive(Debug, Default)]
pub struct Found {
    /// Labs that were removed.
    pub removed: Vec<LabId>,
    /// Kept labs that were left alone.
    pub kept: Vec<LabId>,
    /// Labs of processes that run.
    pub in_use: Vec<LabId>,
}

/// Removes what killed runs have left. Kept labs and those in use stay.
pub fn remove_abandoned() -> Result<Found, LabError> {
    sweep(false, |_| true)
}

/// Removes kept labs too, or the one with this id. Those in use stay.
pub fn remove_kept(only: Option<&str>) -> Result<Found, LabError> {
    sweep(true, |id| only.is_none_or(|only| id.to_string() == only))
}

fn sweep(also_kept: bool, wanted: impl Fn(&LabId) -> bool) -> Result<Found, LabError> {
    let _all = lock_all()?;
    let mut found = Found::default();
    for id in every_lab().into_iter().filter(wanted) {
        if in_use(&id) {
            found.in_use.push(id);
        } else if !also_kept && id.dir().join("kept").exists() {
            found.kept.push(id);
        } else {
            remove(&id)?;
            found.removed.push(id);
        }
    }
    Ok(found)
}

/// Ids of which anything is left at all, sorted.
fn every_lab() -> Vec<LabId> {
    let names = |dir: &str| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect()
    };
    let mut ids: Vec<LabId> = names(RUN_DIR).iter().filter_map(|n| LabId::parse(n)).collect();
    ids.extend(names(netns::DIR).iter().filter_map(|n| LabId::of_netns(n)));
    ids.extend(
        names(BPFFS)
            .iter()
            .filter_map(|n| LabId::parse(n.strip_prefix(BPF_PREFIX)?)),
    );
    ids.sort();
    ids.dedup();
    ids
}

fn in_use(id: &LabId) -> bool {
    let Ok(file) = File::open(id.dir().join("lock")) else {
        return false;
    };
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}

/// Removes processes, namespaces, pins and files, in this order: the folder goes last,
/// so that a removal that fails half-way is found again.
fn remove(id: &LabId) -> Result<(), LabError> {
    let namespaces = id.namespaces();
    kill_all(&namespaces)?;
    let pins = id.pins();
    if pins.exists() {
        fs::remove_dir_all(&pins).context(|| format!("remove {}", pins.display()))?;
    }
    let lines: Vec<String> = namespaces
        .iter()
        .map(|n| format!("netns del {}", n.name()))
        .collect();
    if !lines.is_empty() {
        command::ip_batch(None, &lines)?;
    }
    let dir = id.dir();
    if dir.exists() {
        fs::remove_dir_all(&dir).context(|| format!("remove {}", dir.display()))?;
    }
    Ok(())
}

/// SIGKILL to every process inside, until none is left (one may have been starting another).
fn kill_all(namespaces: &[Netns]) -> Result<(), LabError> {
    wait::until(
        Duration::from_secs(5),
        "the end of all processes in the lab's namespaces",
        || {
            let pids = netns::pids(namespaces);
            for pid in pids.iter().filter_map(|p| Pid::from_raw(*p)) {
                // Gone in the meantime is as good.
                let _ = kill_process(pid, Signal::KILL);
            }
            pids.is_empty()
        },
    )
}

/// Held while ids are taken or swept, so that no lab is seen between its folder and its lock.
fn lock_all() -> Result<File, LabError> {
    fs::create_dir_all(RUN_DIR).context(|| format!("make {RUN_DIR}"))?;
    let file = open_lock(&Path::new(RUN_DIR).join("lock"))?;
    flock(&file, FlockOperation::LockExclusive).context(|| format!("lock {RUN_DIR}"))?;
    Ok(file)
}

fn open_lock(path: &Path) -> Result<File, LabError> {
    let open = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    open.context(|| format!("open {}", path.display()))
}

fn mount_bpffs() -> Result<(), LabError> {
    let stat = rustix::fs::statfs(BPFFS).context(|| format!("look at {BPFFS}"))?;
    if u32::try_from(stat.f_type & 0xffff_ffff).is_ok_and(|kind| kind == BPF_FS_MAGIC) {
        return Ok(());
    }
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount(c"bpf", BPFFS, c"bpf", flags, None).context(|| format!("mount bpffs on {BPFFS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_ids() {
        for good in ["1", "4711", "4711-1", "4711-12"] {
            assert_eq!(LabId::parse(good).map(|i| i.to_string()).as_deref(), Some(good));
        }
        for bad in [
            "",
            "a",
            "1-",
            "-1",
            "1-0",
            "01",
            "1-01",
            "1.2",
            "../1",
            "+1",
            "99999999999",
            "lock",
        ] {
            assert_eq!(LabId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn namespaces_of_others_are_not_ours() {
        assert_eq!(LabId::of_netns("tandem.12.client"), LabId::parse("12"));
        assert_eq!(LabId::of_netns("tandem.12-3.be1"), LabId::parse("12-3"));
        for other in [
            "tandem.12",
            "tandem.12.",
            "tandem.x.client",
            "tandemx.12.client",
            "client",
            "tandem..a",
        ] {
            assert_eq!(LabId::of_netns(other), None, "{other}");
        }
    }

    #[test]
    fn names_come_from_the_id() {
        let id = LabId::new(77, 2);
        assert_eq!(id.netns("lb1").name(), "tandem.77-2.lb1");
        assert_eq!(id.pins(), Path::new("/sys/fs/bpf/tandem-lab-77-2"));
    }
}
