//! The programs in the kernel: loaded as the agent does it, run by `BPF_PROG_TEST_RUN`.

use std::io::{ErrorKind, Write};
use std::path::Path;

use aya::programs::{ProgramError, TestRun, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use lb_common::stats::Counter;
use lb_common::stop::Stop;
use lb_tests::model::{Arrival, Verdict};
use lb_tests::pins::Pins;
use lb_userspace::dataplane::load::{Balancer, Plan};
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::model::{Capacity, GroupKey, Name};
use lb_userspace::state::contents::Contents;
use lb_userspace::state::diff::diff;

use crate::frame::parse;
use crate::net;
use crate::world::{GROUP_KEY, World};

/// Headroom of a frame without metadata: 256 bytes less the kernel's own 40 (`struct xdp_frame`).
pub(crate) const HEADROOM: usize = 216;

/// The metadata that every kernel takes. Linux 6.1 takes no more (`xdp_metalen_invalid`), 6.12 takes 255 bytes.
const METADATA: usize = 32;

/// The shortest frame that a test run takes: the kernel refuses one without a whole Ethernet header, as drivers do.
pub(crate) const SHORTEST: usize = 14;

/// Says past the test harness, which swallows what a test prints when it passes.
pub(crate) fn say(line: &str) {
    // Nobody reads it where there is no stderr.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A program that can be run.
pub(crate) struct Program(Xdp);

impl Program {
    /// The program pinned at `path`.
    pub(crate) fn open(path: &Path) -> Self {
        Self(Xdp::from_pin(path, XdpAttachType::Interface).expect("the program's pin"))
    }

    /// Runs it over a frame; its verdict and the frame as it left it. Headroom is taken away by metadata.
    pub(crate) fn run(&self, arrival: &Arrival<'_>) -> (Verdict, Vec<u8>) {
        self.run_repeated(arrival, 1)
    }

    /// Runs it again and again over the same frame as it is left; the last verdict.
    pub(crate) fn repeat(&self, arrival: &Arrival<'_>, times: u32) -> Verdict {
        self.run_repeated(arrival, times).0
    }

    /// The least headroom that this kernel gives a frame of a test run.
    pub(crate) fn least_headroom(&self) -> usize {
        let frame = [0; SHORTEST];
        match self.test_run(&frame, 0, 0, 1) {
            Ok(_) => 0,
            Err(ProgramError::SyscallError(e)) if e.io_error.kind() == ErrorKind::InvalidInput => {
                HEADROOM - METADATA
            }
            Err(e) => panic!("BPF_PROG_TEST_RUN with metadata: {e:?}"),
        }
    }

    fn run_repeated(&self, arrival: &Arrival<'_>, repeat: u32) -> (Verdict, Vec<u8>) {
        let &Arrival {
            frame,
            ingress,
            headroom,
        } = arrival;
        let (verdict, left) = self
            .test_run(frame, ingress, headroom, repeat)
            .unwrap_or_else(|e| panic!("BPF_PROG_TEST_RUN of {} bytes: {e:?}", frame.len()));
        let verdict = match verdict {
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            3 => Verdict::Tx,
            4 => Verdict::Redirect,
            other => panic!("verdict {other}"),
        };
        (verdict, left)
    }

    fn test_run(
        &self,
        frame: &[u8],
        ingress: u32,
        headroom: usize,
        repeat: u32,
    ) -> Result<(u32, Vec<u8>), ProgramError> {
        let meta = HEADROOM - headroom;
        let input = [&vec![0x5a; meta], frame].concat();
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [meta as u32, input.len() as u32, 0, ingress, 0, 0];
        let context: Vec<u8> = context.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut output = vec![0; input.len() + 128];
        let result = self.0.test_run(TestRunOptions {
            data_in: Some(&input),
            data_out: Some(&mut output),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        })?;
        output.truncate(result.data_size_out as usize);
        Ok((result.return_value, output.split_off(meta)))
    }
}

/// `lb_xdp`, its maps and its pins.
pub(crate) struct Kernel {
    pub(crate) program: Program,
    pub(crate) maps: Maps,
    pub(crate) capacity: Capacity,
    pub(crate) pins: Pins,
}

impl Kernel {
    /// Loads the balancer and fills its maps through the agent's own writes.
    pub(crate) fn load(world: &World, capacity: Capacity) -> Self {
        let pins = net::pins();
        let (key, node) = (GroupKey::new(GROUP_KEY), parse::<Name>("test"));
        let plan = Plan {
            capacity,
            key: Some(&key),
            node: &node,
            log_level: 0,
        };
        let balancer = Balancer::load(&pins.0, &plan).unwrap_or_else(|e| {
            panic!(
                "lb_xdp can't be loaded (CAP_BPF, CAP_NET_ADMIN are needed): {e}: {:?}",
                std::error::Error::source(&e)
            )
        });
        let mut maps = balancer.maps;
        for op in diff(&Contents::default(), &world.contents) {
            maps.apply(&op).unwrap_or_else(|e| panic!("{op:?}: {e}"));
        }
        Self {
            program: Program::open(&pins.0.program()),
            maps,
            capacity,
            pins,
        }
    }

    /// All counters, over all CPUs.
    pub(crate) fn counters(&self) -> Counters {
        let index = |n: u32| 0..u16::try_from(n).expect("few");
        let vip = |i| self.maps.vip_counter(i).expect("lb_vip_stats");
        let backend = |i| self.maps.backend_counter(i).expect("lb_be_stats");
        let stop = |&s| self.maps.stop_counter(s).expect("lb_stops");
        Counters {
            vips: index(self.capacity.vips).map(vip).collect(),
            backends: index(self.capacity.backends).map(backend).collect(),
            stops: Stop::ALL.iter().map(stop).collect(),
        }
    }
}

/// All counters of `lb_xdp`, by index.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) vips: Vec<Counter>,
    pub(crate) backends: Vec<Counter>,
    pub(crate) stops: Vec<Counter>,
}

impl Counters {
    /// Adds one frame.
    pub(crate) fn count(&mut self, vip: Option<u16>, backend: Option<u16>, stop: Option<Stop>, bytes: usize) {
        let one = Counter {
            packets: 1,
            bytes: bytes as u64,
        };
        vip.into_iter().for_each(|i| self.vips[usize::from(i)] += one);
        backend
            .into_iter()
            .for_each(|i| self.backends[usize::from(i)] += one);
        stop.into_iter().for_each(|s| self.stops[s as usize] += one);
    }

    /// Fails where `other` differs, and says where.
    pub(crate) fn assert_equals(&self, other: &Self, what: &str) {
        let named = |c: &Self| {
            let rows = |name: &'static str, all: &[Counter]| -> Vec<(String, Counter)> {
                all.iter()
                    .enumerate()
                    .map(|(i, &c)| (format!("{name} {i}"), c))
                    .collect()
            };
            let mut all = rows("vip", &c.vips);
            all.extend(rows("backend", &c.backends));
            all.extend(
                Stop::ALL
                    .iter()
                    .zip(&c.stops)
                    .map(|(s, &c)| (format!("stop {}", s.row().name), c)),
            );
            all
        };
        let wrong: Vec<String> = named(self)
            .into_iter()
            .zip(named(other))
            .filter(|((_, a), (_, b))| a != b)
            .map(|((name, a), (_, b))| format!("{name}: {a:?}, wanted {b:?}"))
            .collect();
        assert!(wrong.is_empty(), "{what}: counters\n{}", wrong.join("\n"));
    }
}
