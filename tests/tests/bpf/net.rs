//! A network namespace of the test's own, with a veth pair; pins that vanish with the test.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use lb_tests::pins::Pins;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

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

/// Pins of the test's own.
pub(crate) fn pins() -> Pins {
    require_root();
    Pins::new().expect("a pin root on bpffs")
}
