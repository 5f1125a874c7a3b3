//! A host with two uplinks, each to a gateway that answers ARP and neighbour discovery.

use std::fs::{self, File};
use std::future::Future;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use lb_userspace::net::{Resolver, Target};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::time::{Instant, sleep};

pub(super) const GATEWAY_1: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub(super) const GATEWAY_2: [u8; 6] = [2, 0, 0, 0, 2, 2];
pub(super) const UPLINK_1: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(super) const SOON: Duration = Duration::from_secs(15);

pub(super) struct Namespace(String);

impl Namespace {
    fn new(lab: &str, host: &str) -> Self {
        let name = format!("nexthop-{}-{lab}-{host}", std::process::id());
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
        let namespace = Self(name);
        // Duplicate address detection would hold back neighbour discovery for the first two seconds of a link, and
        // IPv6 addresses would go with the link.
        namespace.run(async || {
            for (knob, value) in [("accept_dad", "0"), ("keep_addr_on_down", "1")] {
                for interfaces in ["all", "default"] {
                    fs::write(format!("/proc/sys/net/ipv6/conf/{interfaces}/{knob}"), value)
                        .expect("a sysctl");
                }
            }
        });
        namespace
    }

    pub(super) fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.0))
    }

    /// Runs many commands of the ip tool at once.
    pub(super) fn batch(&self, lines: &str) {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(lines.as_bytes()).expect("a file");
        self.ip(&format!("-batch {}", file.path().display()));
    }

    /// Runs `test` on a thread of its own that is in this namespace.
    pub(super) fn run<F: Future>(&self, test: impl FnOnce() -> F + Send)
    where
        F::Output: Send,
    {
        let inside = || {
            let file = File::open(format!("/run/netns/{}", self.0)).expect("the namespace");
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(test());
        };
        let done = std::thread::scope(|scope| scope.spawn(inside).join());
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("the ip tool");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// `host` with `up1` and `up2`, each to the `eth0` of a gateway; 10.0.N.1 and 2001:db8:N::1 here, .2 and ::2 there.
pub(super) struct Lab {
    pub(super) host: Namespace,
    pub(super) gateways: [Namespace; 2],
}

impl Lab {
    pub(super) fn new(name: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the labs need root: run them by `cargo xtask test`"
        );
        let host = Namespace::new(name, "host");
        let gateways = ["gw1", "gw2"].map(|gateway| Namespace::new(name, gateway));
        for (n, gateway) in (1..).zip(&gateways) {
            connect(&host, gateway, n);
        }
        let lab = Self { host, gateways };
        lab.settle();
        lab
    }

    /// Waits until both gateways answer, then forgets them: the first solicitation on a fresh link is often lost.
    fn settle(&self) {
        let near = ["10.0.1.2", "10.0.2.2", "2001:db8:1::2", "2001:db8:2::2"].map(target);
        self.host.run(async || {
            let mut resolver = Resolver::open().await.expect("a resolver");
            let start = Instant::now();
            while !resolver
                .resolve(&near)
                .await
                .expect("a pass")
                .iter()
                .all(|answer| answer.hop().is_some())
            {
                assert!(start.elapsed() < SOON, "the gateways don't answer");
                sleep(Duration::from_millis(50)).await;
            }
        });
        for link in ["up1", "up2"] {
            self.host.ip(&format!("neigh flush dev {link}"));
        }
    }
}

pub(super) fn connect(host: &Namespace, gateway: &Namespace, n: u32) {
    host.ip(&format!(
        "link add up{n} address 02:00:00:00:0{n}:01 type veth \
         peer name eth0 address 02:00:00:00:0{n}:02 netns {}",
        gateway.0
    ));
    for (side, link, last) in [(host, format!("up{n}"), 1), (gateway, "eth0".to_owned(), 2)] {
        side.ip(&format!("addr add 10.0.{n}.{last}/24 dev {link}"));
        side.ip(&format!("addr add 2001:db8:{n}::{last}/64 dev {link} nodad"));
        side.ip(&format!("link set {link} up"));
    }
}

pub(super) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn target(text: &str) -> Target {
    Target {
        address: address(text),
        via: None,
        source: None,
    }
}

/// Makes the kernel's neighbour timers fast: 1.5 to 4.5 s in REACHABLE (usual: ten times that), 1 s in DELAY, three
/// probes 100 ms apart. With less time in REACHABLE than in DELAY an entry keeps itself alive, unused. Must run inside
/// the namespace.
pub(super) fn hasten(link: &str) {
    for family in ["ipv4", "ipv6"] {
        let folder = format!("/proc/sys/net/{family}/neigh/{link}");
        for (knob, value) in [
            ("base_reachable_time_ms", "3000"),
            ("delay_first_probe_time", "1"),
            ("retrans_time_ms", "100"),
        ] {
            fs::write(format!("{folder}/{knob}"), value).expect("a sysctl");
        }
    }
}
