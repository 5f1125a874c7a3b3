//! A network namespace with a name, and ways to do something inside it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command;
use crate::error::{IoContext, LabError};

/// Where `ip netns` keeps its names.
pub const DIR: &str = "/run/netns";

/// A named network namespace. The value is only the name: dropping it removes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// The namespace with this name, whether it exists or not.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// The name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new(DIR).join(&self.name)
    }

    /// A command that will run inside. By `nsenter`, which changes nothing but the network:
    /// `ip netns exec` also mounts a new /sys, where bpffs is missing. (The price: /sys/class/net is the host's.)
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs `ip` commands inside, all in one process.
    pub fn ip(&self, lines: &[String]) -> Result<(), LabError> {
        command::ip_batch(Some(&self.name), lines)
    }

    /// Sets sysctls, given as paths below /proc/sys such as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<(), LabError> {
        self.within(|| {
            settings.iter().try_for_each(|(path, value)| {
                let path = Path::new("/proc/sys").join(path);
                fs::write(&path, value).context(|| format!("write {value} to {}", path.display()))
            })
        })?
    }

    /// Runs `job` on a thread of its own inside the namespace: its sockets, interface names and BPF links
    /// belong there. Files are those of the host.
    pub fn within<T: Send>(&self, job: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let path = self.path();
        let file = File::open(&path).context(|| format!("open {}", path.display()))?;
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .context(|| format!("enter {}", path.display()))?;
                Ok(job())
            });
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// The names of all namespaces for which `wanted` is true, sorted.
pub fn list(wanted: impl Fn(&str) -> bool) -> Vec<Netns> {
    let Ok(entries) = fs::read_dir(DIR) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|name| wanted(name))
        .collect();
    names.sort();
    names.into_iter().map(Netns::named).collect()
}

/// The processes inside any of the namespaces (what `ip netns pids` would list, in one walk over /proc).
pub fn pids(namespaces: &[Netns]) -> Vec<i32> {
    let inodes: HashSet<(u64, u64)> = namespaces
        .iter()
        .filter_map(|n| fs::metadata(n.path()).ok())
        .map(|m| (m.dev(), m.ino()))
        .collect();
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let inside = |pid: &i32| {
        fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| inodes.contains(&(m.dev(), m.ino())))
    };
    processes
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(inside)
        .collect()
}
