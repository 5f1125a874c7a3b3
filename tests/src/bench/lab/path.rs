//! The way of a live frame: generator → node → sink.
//!
//! ```text
//!     far                          node
//!     generator (devmap) ──node──▶ eth0  lb_xdp
//!     sink ◀────────────────────── XDP_TX
//!                                  floor
//!     generator (devmap) ──floor─▶ eth0  XDP_TX
//!     sink ◀────────────────────── XDP_TX
//! ```
//! `XDP_TX` answers by the link that a frame came by, so the sink is at the generator's end.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::{Array, DevMap, MapData, PerCpuArray, PerCpuValues};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions};
use aya::util::nr_cpus;
use lb_common::bench::{
    self, ARRIVED_MAP, LINK_MAP, SAMPLE_MAP, SAMPLES, Sample, TEMPLATE_MAP, Template, WANTED_MAP, arrival,
};
use lb_common::stats::Counter;
use lb_common::stop::Stop;
use lb_common::{abi, hash};
use lb_userspace::dataplane::load::{Balancer, Plan};
use lb_userspace::model::{GroupKey, Name};
use lb_userspace::state::contents::Contents;
use lb_userspace::state::diff::diff;
use zerocopy::{FromBytes, IntoBytes};

use super::cpu::Clock;
use super::sample;
use super::turn::{Seen, Turn};
use crate::bench::case::Case;
use crate::bench::programs::{GROUP_KEY, load, program};
use crate::bench::{object, world};
use crate::claim::Claim;
use crate::command;
use crate::model::balance::Tables;
use crate::netns::Netns;
use crate::pins::Pins;

/// Index of the node's interface.
pub const IFINDEX: u32 = 10;
/// Indexes of the generator's two interfaces, in the order of [`Lane`].
const FAR: [u32; 2] = [11, 12];
/// Room for an outer header; less than what veth takes with XDP.
const MTU: u32 = 1600;

/// Frames that are sent before the softirqs run: one NAPI budget.
const BATCH: u32 = 64;
/// Frames of one call. A call waits for RCU, which takes long but no time on the CPU.
const CALL: u32 = 64 * 8192;

type CounterBytes = [u8; size_of::<Counter>()];
type TemplateBytes = [u8; size_of::<Template>()];
type SampleBytes = [u8; size_of::<Sample>()];

/// Which program a frame goes through. The numbers are those of the generator's links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// `lb_xdp`.
    Target = 0,
    /// Returns `XDP_TX`.
    Floor = 1,
}

impl Lane {
    /// Both, in the order of their turns.
    pub const BOTH: [Self; 2] = [Self::Target, Self::Floor];
}

/// Namespaces, links and programs. Dropping it removes all of them.
pub struct Path {
    // Programs first: links and namespaces go when nobody uses them any more.
    generator: Ebpf,
    template: PerCpuArray<MapData, TemplateBytes>,
    arrived: PerCpuArray<MapData, CounterBytes>,
    samples: Array<MapData, SampleBytes>,
    wanted: Array<MapData, u32>,
    balancer: Balancer,
    tables: Tables,
    _sink: Ebpf,
    _floor: Ebpf,
    _pins: Pins,
    _claim: Claim,
}

impl Path {
    /// Makes everything; the node's maps hold `contents`.
    ///
    /// # Errors
    /// Without root, and when the kernel refuses something.
    pub fn build(contents: &Contents) -> Result<Self> {
        let claim = Claim::take()?;
        let [far, node, floor] = ["far", "node", "floor"].map(|role| claim.id().netns(role));
        connect(&far, [&node, &floor])?;

        let pins = Pins::new().context("can't make a pin root")?;
        let mut balancer = balancer(&pins, contents)?;
        let mut floor_program = load(object::FLOOR, bench::FLOOR)?;
        let mut sink = load(object::SINK, bench::SINK)?;
        attach(&node, balancer.ebpf(), abi::LB_XDP, &["eth0"])?;
        attach(&floor, &mut floor_program, bench::FLOOR, &["eth0"])?;
        attach(&far, &mut sink, bench::SINK, &["node", "floor"])?;

        let mut generator = load(object::GENERATE, bench::GENERATE)?;
        let mut links = DevMap::try_from(generator.take_map(LINK_MAP).context(LINK_MAP)?)?;
        // Interfaces are looked up in the namespace of whoever writes the map.
        far.within(|| {
            (0..)
                .zip(FAR)
                .try_for_each(|(lane, ifindex)| links.set(lane, ifindex, None, 0))
        })??;
        let map = |ebpf: &mut Ebpf, name| ebpf.take_map(name).context(name);
        Ok(Self {
            template: map(&mut generator, TEMPLATE_MAP)?.try_into()?,
            arrived: map(&mut sink, ARRIVED_MAP)?.try_into()?,
            samples: map(&mut sink, SAMPLE_MAP)?.try_into()?,
            wanted: map(&mut sink, WANTED_MAP)?.try_into()?,
            generator,
            balancer,
            tables: Tables {
                key: hash::Key::expand(&GROUP_KEY),
                contents: contents.clone(),
            },
            _sink: sink,
            _floor: floor_program,
            _pins: pins,
            _claim: claim,
        })
    }

    /// Sends a few frames and looks at each that arrives.
    ///
    /// # Errors
    /// When one is not what it has to be.
    pub fn check_samples(&mut self, lane: Lane, case: &Case) -> Result<()> {
        self.prepare(lane, case, 1)?;
        let before = self.count()?;
        self.wanted.set(0, SAMPLES, 0)?;
        self.send(case, SAMPLES)?;
        let seen = self.settled(&before, u64::from(SAMPLES))?;
        let missing = self.wanted.get(&0, 0)?;
        self.wanted.set(0, 0, 0)?;
        seen.check(lane)
            .with_context(|| format!("first frames of {lane:?}"))?;
        let mut flows = std::collections::BTreeSet::new();
        for index in missing..SAMPLES {
            let bytes = self.samples.get(&index, 0)?;
            let sample = Sample::read_from_bytes(&bytes).expect("the same size");
            let frame = sample.frame.as_bytes().get(..sample.len as usize);
            let frame = frame.with_context(|| format!("a frame of {} bytes", sample.len))?;
            sample::check(frame, lane, case, &self.tables).with_context(|| format!("{lane:?}"))?;
            flows.insert(frame.to_vec());
        }
        ensure!(
            (flows.len() == 1) == (case.flows == 1),
            "{} flows in {} frames of {}",
            flows.len(),
            SAMPLES - missing,
            case.name
        );
        Ok(())
    }

    /// Sends frames until `busy` has passed on `cpu`, where this thread has to stay.
    ///
    /// # Errors
    /// When not all that arrived is what it has to be.
    pub fn turn(&mut self, lane: Lane, case: &Case, seed: u64, busy: Duration, cpu: usize) -> Result<Turn> {
        let clock = Clock::of(cpu)?;
        self.prepare(lane, case, seed)?;
        let before = self.count()?;
        let (start, mut sent) = (clock.now()?, 0);
        let spent = loop {
            self.send(case, CALL)?;
            sent += u64::from(CALL);
            let spent = clock.now()? - start;
            if spent >= busy {
                break spent;
            }
        };
        let seen = self.settled(&before, sent)?;
        seen.check(lane)
            .with_context(|| format!("{lane:?} measured something else"))?;
        let on_cpu = self.count()?.on(cpu) - before.on(cpu);
        Ok(Turn {
            elsewhere: seen.arrived() - on_cpu,
            seen,
            busy: spent,
        })
    }

    fn prepare(&mut self, lane: Lane, case: &Case, seed: u64) -> Result<()> {
        let frame = sample::template(case);
        let mut words = [0; bench::TEMPLATE_LEN / 8];
        words.as_mut_bytes()[..frame.len()].copy_from_slice(&frame);
        let template = Template {
            flows: case.drawn(seed),
            link: lane as u32,
            v6: u32::from(case.v6),
            frame: words,
        };
        let bytes: TemplateBytes = zerocopy::transmute!(template);
        let cpus = nr_cpus().map_err(|(what, e)| anyhow::anyhow!("{what}: {e}"))?;
        Ok(self
            .template
            .set(0, PerCpuValues::try_from(vec![bytes; cpus])?, 0)?)
    }

    fn send(&mut self, case: &Case, frames: u32) -> Result<()> {
        let frame = sample::template(case);
        program(&mut self.generator, bench::GENERATE)?
            .test_run(TestRunOptions {
                data_in: Some(&frame),
                repeat: frames,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            })
            .context("the generator did not run to its end")?;
        Ok(())
    }

    /// What was seen since `before`, when `sent` frames have arrived or nothing moves any more.
    fn settled(&self, before: &Count, sent: u64) -> Result<Seen> {
        const STILL: Duration = Duration::from_millis(20);
        let mut last = self.count()?.since(before, sent);
        while last.arrived() < sent {
            std::thread::sleep(STILL);
            let now = self.count()?.since(before, sent);
            if now == last {
                break;
            }
            last = now;
        }
        Ok(last)
    }

    fn count(&self) -> Result<Count> {
        let maps = &self.balancer.maps;
        let mut forwarded = 0;
        for index in 0..world::CAPACITY.vips as u16 {
            forwarded += maps.vip_counter(index)?.packets;
        }
        let stop = |&stop: &Stop| Ok((stop, maps.stop_counter(stop)?.packets));
        let kind = |kind: u32| -> Result<Vec<u64>> {
            let values = self.arrived.get(&kind, 0)?;
            let packets = |bytes: &CounterBytes| {
                let counter = Counter::read_from_bytes(bytes).expect("the same size");
                counter.packets
            };
            Ok(values.iter().map(packets).collect())
        };
        Ok(Count {
            forwarded,
            stopped: Stop::ALL.iter().map(stop).collect::<Result<_>>()?,
            arrived: (0..arrival::KINDS).map(kind).collect::<Result<_>>()?,
        })
    }
}

/// All counters at one moment.
struct Count {
    forwarded: u64,
    stopped: Vec<(Stop, u64)>,
    /// By [`arrival`], by CPU.
    arrived: Vec<Vec<u64>>,
}

impl Count {
    fn since(&self, before: &Self, sent: u64) -> Seen {
        let arrived = |kind: u32| {
            let sum = |count: &Self| count.arrived[kind as usize].iter().sum::<u64>();
            sum(self) - sum(before)
        };
        let stopped = self.stopped.iter().zip(&before.stopped);
        Seen {
            sent,
            forwarded: self.forwarded - before.forwarded,
            stopped: stopped
                .map(|((stop, now), (_, before))| (*stop, now - before))
                .filter(|(_, packets)| *packets > 0)
                .collect(),
            encapsulated: arrived(arrival::ENCAPSULATED),
            plain: arrived(arrival::PLAIN),
            other: arrived(arrival::OTHER),
        }
    }

    /// What has arrived on this CPU.
    fn on(&self, cpu: usize) -> u64 {
        self.arrived.iter().map(|by_cpu| by_cpu[cpu]).sum()
    }
}

/// Namespaces and one link to each of `nodes`. Nothing but the generator's frames goes over them: without IPv6 nobody
/// has anything to say.
fn connect(far: &Netns, nodes: [&Netns; 2]) -> Result<()> {
    let all = [far, nodes[0], nodes[1]];
    let added: Vec<String> = all.iter().map(|n| format!("netns add {}", n.name())).collect();
    command::ip_batch(None, &added)?;
    for namespace in all {
        namespace.sysctl(&[
            ("net/ipv6/conf/all/disable_ipv6", "1"),
            ("net/ipv6/conf/default/disable_ipv6", "1"),
        ])?;
    }
    let ends = ["node", "floor"].into_iter().zip(FAR).zip(nodes);
    let pair = |((end, index), node): ((&str, u32), &Netns)| {
        format!(
            "link add {end} index {index} netns {} type veth peer name eth0 index {IFINDEX} netns {}",
            far.name(),
            node.name()
        )
    };
    command::ip_batch(None, &ends.map(pair).collect::<Vec<_>>())?;
    let up = |end: &str| format!("link set dev {end} mtu {MTU} up");
    far.ip(&["node", "floor"].map(up))?;
    for node in nodes {
        node.ip(&[up("eth0")])?;
    }
    Ok(())
}

fn balancer(pins: &Pins, contents: &Contents) -> Result<Balancer> {
    let (key, node) = (GroupKey::new(GROUP_KEY), "bench".parse::<Name>());
    let plan = Plan {
        capacity: world::CAPACITY,
        key: Some(&key),
        node: &node.expect("a valid name"),
        log_level: 0,
    };
    let mut balancer = Balancer::load(&pins.0, &plan).context("can't load lb_xdp")?;
    for op in diff(&Contents::default(), contents) {
        balancer.maps.apply(&op).with_context(|| format!("{op:?}"))?;
    }
    Ok(balancer)
}

/// Natively. The links live as long as `ebpf`.
fn attach(namespace: &Netns, ebpf: &mut Ebpf, name: &str, interfaces: &[&str]) -> Result<()> {
    namespace.within(|| {
        let program = program(ebpf, name)?;
        for interface in interfaces {
            program
                .attach(interface, XdpMode::Driver)
                .with_context(|| format!("can't attach {name} to {interface}"))?;
        }
        Ok(())
    })?
}
