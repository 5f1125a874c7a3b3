//! SYNs from everywhere during a change: who is there loses nothing, and no table fills.
//!
//! The SYNs run through the very program that serves the lab, over its own maps (`BPF_PROG_TEST_RUN`), but their packets
//! go nowhere: what is shown is the balancer's part, not what a server does about a flood.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use lb_common::pick::By;
use lb_tests::host::Node;
use lb_tests::scenario::{Step, Work, share};
use lb_tests::topo::{ECHO_PORT, VIP4};
use lb_tests::{Lab, LabError};
use lb_userspace::dataplane::flows::Table;
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pin::Root;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::steady::{self, WORK, assert_unbroken, sleep_until};

const SYNS: u32 = 1_000_000;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// XDP_TX and XDP_REDIRECT.
const SENT: [u32; 2] = [3, 4];
/// What the agent may grow by: its heap does not follow the flood, but sweeps need some room.
const GROWTH_KIB: u64 = 64 * 1024;

/// An Ethernet frame with a TCP segment from `source` to the VIP; no payload, as few options as the RFCs let.
fn frame(source: (Ipv4Addr, u16), seq: u32, flags: u8) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
    let ip = &mut frame[14..34];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&40_u16.to_be_bytes());
    (ip[8], ip[9]) = (64, 6);
    ip[12..16].copy_from_slice(&source.0.octets());
    ip[16..20].copy_from_slice(&VIP4.octets());
    let sum: u32 = ip
        .chunks(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded twice");
    ip[10..12].copy_from_slice(&(!folded).to_be_bytes());
    let tcp = &mut frame[34..54];
    tcp[..2].copy_from_slice(&source.1.to_be_bytes());
    tcp[2..4].copy_from_slice(&ECHO_PORT.to_be_bytes());
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    (tcp[12], tcp[13]) = (0x50, flags);
    frame
}

/// Sends `flows` SYNs of as many random flows through the node's program, each followed by the ACK of its handshake if
/// `answered`. How many were forwarded.
fn flood(node: &Node, flows: u32, answered: bool) -> Result<u32, LabError> {
    let program = Xdp::from_pin(Root::new(node.pin_root()).program(), XdpAttachType::Interface);
    let program = program.expect("the running program");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    node.namespace().within(|| {
        let ifindex: u32 = eth0_index();
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: Vec<u8> = [0, 60, 0, ifindex, 0, 0]
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect();
        let run = |frame: &[u8]| {
            let result = program.test_run(TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            });
            u32::from(SENT.contains(&result.expect("a test run").return_value))
        };
        (0..flows)
            .map(|_| {
                let source = (
                    Ipv4Addr::from_bits(random.random_range(0x0b00_0000..0xdf00_0000)),
                    random.random(),
                );
                let seq: u32 = random.random();
                let sent = run(&frame(source, seq, SYN));
                if answered {
                    run(&frame(source, seq.wrapping_add(1), ACK));
                }
                sent
            })
            .sum()
    })
}

/// Inside the node's namespace.
fn eth0_index() -> u32 {
    rustix::net::netdevice::name_to_index(socket(), "eth0").expect("eth0 is there")
}

fn socket() -> std::net::UdpSocket {
    std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket")
}

fn maps(node: &Node) -> Maps {
    Maps::open(&Root::new(node.pin_root())).expect("its maps")
}

fn count(node: &Node, table: Table) -> usize {
    maps(node).entries(table).expect("its entries").len()
}

/// The agent's resident memory.
fn resident_kib(node: &Node) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", node.pid().expect("it runs"))).expect("its status");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("its memory");
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number")
}

/// A load, slots that are tracked, and then `test` while more changes.
fn during_a_change(name: &str, work: Work, test: impl FnOnce(&mut Lab) -> Result<(), LabError>) {
    let (builder, mut fleet) = steady::lab(name, "on-change", |_| {});
    builder
        .run(|lab| {
            let traffic = work.start(lab)?;
            fleet.make(lab, &Step::Drain("be2".to_owned()))?;
            sleep_until(Instant::now(), Duration::from_secs(2));
            fleet.make(lab, &Step::Reweigh(vec![("be1".to_owned(), 3)]))?;
            test(lab)?;
            assert!(
                share(lab.node(0))? > 5.0,
                "too few slots are tracked for the flood to matter"
            );
            sleep_until(Instant::now(), Duration::from_secs(2));
            assert_unbroken(&traffic.stop()?, work.connections);
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn a_million_syns_during_a_change_cost_nobody_anything() {
    during_a_change("flood", WORK, |lab| {
        let node = lab.node(0);
        let before = (count(node, Table::Flows), resident_kib(node));
        let begun = Instant::now();
        let sent = flood(node, SYNS, false)?;
        let took = begun.elapsed();
        let after = (count(node, Table::Flows), resident_kib(node));
        let probation = count(node, Table::Probation);
        let refused = maps(node).pick_counter(By::Refused).expect("a counter").packets;
        eprintln!(
            "{SYNS} SYNs in {took:?}: flows {} → {}, in probation {probation}, refused {refused}, agent {} → {} KiB",
            before.0, after.0, before.1, after.1
        );
        assert_eq!(sent, SYNS, "none of them was stopped");
        // They were where it hurts: in tracked slots, to the end of what is let in.
        assert!(
            probation > 1000 && refused > 10_000,
            "in probation {probation}, refused {refused}"
        );
        let capacity = maps(node).capacity().flows as usize;
        assert!(probation <= capacity, "{probation} of {capacity}");
        // Only the load's own connections were entered.
        let own = (took.as_secs_f64() + 1.0) * f64::from(WORK.new_per_second);
        #[expect(clippy::cast_precision_loss, reason = "a count of a lab")]
        let entered = after.0.saturating_sub(before.0) as f64;
        assert!(entered < 2.0 * own, "{entered} new entries");
        assert!(after.1 < before.1 + GROWTH_KIB, "{} → {} KiB", before.1, after.1);
        Ok(())
    });
}

#[test]
fn control_flows_that_shake_hands_are_entered() {
    let work = Work {
        connections: 100,
        ..WORK
    };
    during_a_change("flood-control", work, |lab| {
        let node = lab.node(0);
        let before = count(node, Table::Flows);
        flood(node, 20_000, true)?;
        let entered = count(node, Table::Flows).saturating_sub(before);
        assert!(
            entered > 1000,
            "{entered} of 20,000 flows, all in one second, were entered"
        );
        Ok(())
    });
}
