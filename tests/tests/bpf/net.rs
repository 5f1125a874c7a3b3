//! A network namespace of the test's own, with a veth pair, and pins that vanish with the test.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use lb_userspace::dataplane::pin::Root;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const BPFFS: &str = "/sys/fs/bpf";
/// bpffs takes no dots in names.
const PREFIX: &str = "tandem-test-";

/// Names of the veth pair in every test's namespace.
pub(crate) const VETH: [&str; 2] = ["veth-a", "veth-b"];

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{PREFIX}{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Moves this thread into a new namespace, which ends with the thread; the indexes of its veth pair.
pub(crate) fn enter() -> [u32; 2] {
    require_root();
    let name = unique();
    run("ip", &["netns", "add", &name]);
    let entered = File::open(Path::new("/run/netns").join(&name)).and_then(|file| {
        let kind = Some(LinkNameSpaceType::Network);
        Ok(move_into_link_name_space(file.as_fd(), kind)?)
    });
    // The name is not needed any more, and what has no name needs no cleaning up.
    run("ip", &["netns", "del", &name]);
    entered.expect("enter a network namespace");
    run(
        "ip",
        &["link", "add", VETH[0], "type", "veth", "peer", "name", VETH[1]],
    );
    VETH.map(ifindex)
}

fn ifindex(name: &str) -> u32 {
    let output = Command::new("ip")
        .args(["-o", "link", "show", "dev", name])
        .output()
        .expect("run ip");
    let text = String::from_utf8(output.stdout).expect("text");
    let digits = text.split(':').next().expect("a line");
    digits.parse().unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests load XDP programs and make network namespaces: run them as root (cargo xtask test)"
    );
}

/// A pin root that is removed when the test ends, also by a panic.
pub(crate) struct Pins(pub(crate) Root);

impl Pins {
    /// A new one.
    pub(crate) fn new() -> Self {
        require_root();
        static MOUNTED: Once = Once::new();
        MOUNTED.call_once(mount);
        let root = Root::new(Path::new(BPFFS).join(unique()));
        root.create().expect("a pin root on bpffs");
        sweep();
        Self(root)
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

/// Mounts bpffs where nobody has done so. Once: each mount would be a new, empty file system on top of the others.
fn mount() {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let there = rustix::fs::statfs(BPFFS).expect("the kernel has bpffs");
    if there.f_type != BPF_FS_MAGIC {
        run("mount", &["-t", "bpf", "bpf", BPFFS]);
    }
}

/// Removes what killed runs have left.
fn sweep() {
    let entries = std::fs::read_dir(BPFFS).expect("bpffs");
    for name in entries.filter_map(|e| e.ok()?.file_name().into_string().ok()) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let root = Root::new(Path::new(BPFFS).join(&name));
            let _ = root.decap().remove().and_then(|()| root.remove());
        }
    }
}
