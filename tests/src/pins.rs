//! A pin root of one's own, which vanishes with its owner.

use std::path::Path;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use lb_userspace::dataplane::Error;
use lb_userspace::dataplane::pin::Root;

const BPFFS: &str = "/sys/fs/bpf";
/// bpffs takes no dots in names.
const PREFIX: &str = "tandem-private-";

/// A pin root that is removed when this is dropped, also by a panic.
pub struct Pins(pub Root);

impl Pins {
    /// A new one on the host's BPF file system, which is mounted where nobody has done so.
    ///
    /// # Errors
    /// Where there is none and it can't be mounted, and without root.
    pub fn new() -> Result<Self, Error> {
        // Once: each mount would be a new, empty file system on top of the others.
        static MOUNTED: Once = Once::new();
        MOUNTED.call_once(mount);
        let root = Root::new(Path::new(BPFFS).join(unique()));
        root.create()?;
        sweep();
        Ok(Self(root))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for root in [self.0.decap(), self.0.clone()] {
            if let Err(e) = root.remove() {
                eprintln!("pins are left under {}: {e}", root.path().display());
            }
        }
    }
}

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{n}", std::process::id())
}

/// What fails here fails again, with a better message, when the folder is made.
fn mount() {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let there = rustix::fs::statfs(BPFFS).is_ok_and(|stat| stat.f_type == BPF_FS_MAGIC);
    if !there {
        let _ = Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]).status();
    }
}

/// Removes what killed owners have left.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(BPFFS) else {
        return;
    };
    for name in entries.filter_map(|e| e.ok()?.file_name().into_string().ok()) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let root = Root::new(Path::new(BPFFS).join(&name));
            let _ = root.decap().remove().and_then(|()| root.remove());
        }
    }
}
