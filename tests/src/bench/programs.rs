//! The programs in the kernel, and one measured call.

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues, ProgramArray};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, Pod};
use lb_common::be::Be16;
use lb_common::bench::{self, CASE_MAP, PROGRAM_MAP};
use lb_common::header::proto;
use lb_common::slot::SLOTS;
use lb_common::stop::Stop;
use lb_common::{abi, hash};
use lb_userspace::dataplane::load::{Balancer, Plan};
use lb_userspace::model::{GroupKey, Name};
use lb_userspace::state::contents::Contents;
use lb_userspace::state::diff::diff;
use rustix::time::{ClockId, clock_gettime};
use zerocopy::IntoBytes;

use super::against::{self, Other};
use super::case::Case;
use super::{object, world};
use crate::pins::Pins;

/// Every node of every run steers alike.
pub(super) const GROUP_KEY: [u8; 16] = *b"the bench's key.";

/// `XDP_PASS` and `XDP_TX` (linux/bpf.h).
const PASS: u32 = 2;
const TX: u32 = 3;

/// The words of the wrapper's case; see [`bench::Case`].
type CaseBytes = [u8; size_of::<bench::Case>()];

/// What the wrapper can call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callee {
    /// Returns `XDP_TX`.
    Floor = 0,
    /// The yardstick.
    Reference = 1,
    /// `lb_xdp` of this working tree.
    Target = 2,
    /// `lb_xdp` of another revision.
    Against = 3,
}

/// The loaded programs, their maps filled.
pub struct Programs {
    wrap: Ebpf,
    case: PerCpuArray<MapData, CaseBytes>,
    /// Programs stay callable while this is open.
    callable: ProgramArray<MapData>,
    balancer: Balancer,
    reference: Ebpf,
    floor: Ebpf,
    against: Option<Ebpf>,
    // Last: pins go when nobody uses them any more.
    _pins: Pins,
}

/// Packets counted by one program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    forwarded: u64,
    not_vip: u64,
}

impl Programs {
    /// Loads all programs, and `other` beside them.
    ///
    /// # Errors
    /// When the kernel refuses one, or `other` has maps of other shapes.
    pub fn load(other: Option<&Other>) -> Result<Self> {
        let pins = Pins::new().context("can't make a pin root (the bench needs root)")?;
        let (key, node) = (GroupKey::new(GROUP_KEY), "bench".parse::<Name>());
        let plan = Plan {
            capacity: world::CAPACITY,
            key: Some(&key),
            node: &node.expect("a valid name"),
            log_level: 0,
        };
        let mut balancer = Balancer::load(&pins.0, &plan).context("can't load lb_xdp")?;
        for op in diff(&Contents::default(), &world::contents(world::LOOPBACK)) {
            balancer.maps.apply(&op).with_context(|| format!("{op:?}"))?;
        }
        let flow_key = hash::Key::expand(&GROUP_KEY);
        let against = other
            .map(|other| against::load(other, &pins.0, &flow_key))
            .transpose()?;
        let mut wrap = load(object::WRAP, bench::WRAP)?;
        let case = wrap.take_map(CASE_MAP).context(CASE_MAP)?;
        let callable = wrap.take_map(PROGRAM_MAP).context(PROGRAM_MAP)?;
        let mut programs = Self {
            case: case.try_into()?,
            callable: callable.try_into()?,
            wrap,
            balancer,
            reference: load(object::REFERENCE, bench::REFERENCE)?,
            floor: load(object::FLOOR, bench::FLOOR)?,
            against,
            _pins: pins,
        };
        programs.fill_reference()?;
        programs.connect()?;
        Ok(programs)
    }

    fn connect(&mut self) -> Result<()> {
        let mut connect = |callee: Callee, ebpf: &mut Ebpf, name| -> Result<()> {
            let fd = program(ebpf, name)?.fd()?;
            self.callable
                .set(callee as u32, fd, 0)
                .with_context(|| format!("{name} can't be tail-called"))
        };
        connect(Callee::Floor, &mut self.floor, bench::FLOOR)?;
        connect(Callee::Reference, &mut self.reference, bench::REFERENCE)?;
        connect(Callee::Target, self.balancer.ebpf(), abi::LB_XDP)?;
        if let Some(against) = &mut self.against {
            connect(Callee::Against, against, abi::LB_XDP)?;
        }
        Ok(())
    }

    fn fill_reference(&mut self) -> Result<()> {
        let map = |ebpf: &mut Ebpf, name| ebpf.take_map(name).context(name);
        let mut vips: HashMap<_, [u8; 8], u32> = map(&mut self.reference, "ref_vips")?.try_into()?;
        for proto in [proto::TCP, proto::UDP] {
            vips.insert(world::reference_vip(proto), 0, 0)?;
        }
        let mut slots: Array<_, u32> = map(&mut self.reference, "ref_slots")?.try_into()?;
        for slot in 0..SLOTS {
            slots.set(slot as u32, 1 + u32::from(world::holder(slot)), 0)?;
        }
        let mut backends: Array<_, [u8; 24]> = map(&mut self.reference, "ref_backends")?.try_into()?;
        for offset in 0..world::BACKENDS {
            backends.set(1 + u32::from(offset), world::reference_backend(offset), 0)?;
        }
        Ok(())
    }

    /// Runs `callee` over `repetitions` packets of `case`; nanoseconds for each, the wrapper's cost included.
    ///
    /// The time is this thread's time on a CPU: what a neighbour takes is not in it.
    ///
    /// # Errors
    /// When not every single packet got what it had to: a figure of something else is worse than none.
    pub fn measure(&mut self, callee: Callee, case: &Case, seed: u64, repetitions: u32) -> Result<f64> {
        let frame = case.frame();
        self.prepare(callee, case, &frame, seed)?;
        let before = self.counted(callee)?;
        let program = program(&mut self.wrap, bench::WRAP)?;
        let start = cpu_time();
        let result = program.test_run(TestRunOptions {
            data_in: Some(&frame),
            repeat: repetitions,
            ..TestRunOptions::default()
        })?;
        let nanos = cpu_time() - start;
        let after = self.counted(callee)?;
        let counted = Counted {
            forwarded: after.forwarded - before.forwarded,
            not_vip: after.not_vip - before.not_vip,
        };
        check(callee, case, result.return_value, counted, u64::from(repetitions))
            .with_context(|| format!("{} with {callee:?} measured something else", case.name))?;
        Ok(nanos as f64 / f64::from(repetitions))
    }

    /// One packet: the verdict and the frame as the program left it.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn once(&mut self, callee: Callee, case: &Case, seed: u64) -> Result<(u32, Vec<u8>)> {
        let frame = case.frame();
        self.prepare(callee, case, &frame, seed)?;
        let mut left = vec![0; frame.len() + 64];
        let result = program(&mut self.wrap, bench::WRAP)?.test_run(TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut left),
            ..TestRunOptions::default()
        })?;
        left.truncate(result.data_size_out as usize);
        Ok((result.return_value, left))
    }

    fn prepare(&mut self, callee: Callee, case: &Case, frame: &[u8], seed: u64) -> Result<()> {
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| frame[at + i]));
        let be16 = |at: usize| Be16::new(u16::from_be_bytes([frame[at], frame[at + 1]]));
        // See `bench::Case::beside`.
        let beside_at = 30;
        let ports_at = if case.v6 { 54 } else { 34 };
        let case = bench::Case {
            flows: case.drawn(seed),
            program: callee as u32,
            frame_len: frame.len() as u32,
            ethertype: be16(12),
            macs: [word(0), word(4), word(8)],
            beside: word(beside_at),
            port: be16(ports_at + 2),
            v6: u8::from(case.v6),
            pad: [0; 3],
        };
        let bytes: CaseBytes = std::array::from_fn(|i| case.as_bytes()[i]);
        let cpus = nr_cpus().map_err(|(what, e)| anyhow::anyhow!("{what}: {e}"))?;
        Ok(self.case.set(0, PerCpuValues::try_from(vec![bytes; cpus])?, 0)?)
    }

    fn counted(&self, callee: Callee) -> Result<Counted> {
        match callee {
            Callee::Floor => Ok(Counted::default()),
            Callee::Reference => {
                let map = self.reference.map("ref_packets").context("ref_packets")?;
                let packets = PerCpuArray::<_, u64>::try_from(map)?;
                Ok(Counted {
                    forwarded: sum(&packets.get(&0, 0)?),
                    not_vip: 0,
                })
            }
            Callee::Target | Callee::Against => {
                let maps = &self.balancer.maps;
                let mut forwarded = 0;
                for index in 0..world::CAPACITY.vips as u16 {
                    forwarded += maps.vip_counter(index)?.packets;
                }
                Ok(Counted {
                    forwarded,
                    not_vip: maps.stop_counter(Stop::NotVip)?.packets,
                })
            }
        }
    }
}

/// Whether every packet got what it had to, by the last verdict and by the counters.
fn check(callee: Callee, case: &Case, verdict: u32, counted: Counted, repetitions: u64) -> Result<()> {
    let wanted = if case.vip || callee == Callee::Floor {
        TX
    } else {
        PASS
    };
    ensure!(verdict == wanted, "the last verdict is {verdict}, not {wanted}");
    let is_balancer = matches!(callee, Callee::Target | Callee::Against);
    let wanted = Counted {
        forwarded: if case.vip && callee != Callee::Floor {
            repetitions
        } else {
            0
        },
        not_vip: if is_balancer && !case.vip { repetitions } else { 0 },
    };
    if counted != wanted {
        bail!(
            "{} of {repetitions} packets were forwarded and {} were for no VIP, instead of {} and {}",
            counted.forwarded,
            counted.not_vip,
            wanted.forwarded,
            wanted.not_vip
        );
    }
    Ok(())
}

/// Loads an object, and its program `name` into the kernel.
pub(super) fn load(object: &[u8], name: &str) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new()
        .load(object)
        .with_context(|| format!("can't load {name}"))?;
    program(&mut ebpf, name)?
        .load()
        .with_context(|| format!("the kernel refused {name}"))?;
    Ok(ebpf)
}

/// The program of this name.
pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

fn sum<T: Pod + Into<u64>>(values: &PerCpuValues<T>) -> u64 {
    values.iter().map(|&value| value.into()).sum()
}

/// Nanoseconds that this thread has run.
fn cpu_time() -> i64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::case::ALL;

    #[test]
    fn what_was_not_encapsulated_is_no_measurement() {
        let counted = |forwarded, not_vip| Counted { forwarded, not_vip };
        let hot = &ALL[0];
        assert!(check(Callee::Target, hot, TX, counted(100, 0), 100).is_ok());
        assert!(check(Callee::Target, hot, PASS, counted(100, 0), 100).is_err());
        // The trap: the first packet alone was encapsulated.
        assert!(check(Callee::Target, hot, TX, counted(1, 99), 100).is_err());
        assert!(check(Callee::Reference, hot, TX, counted(99, 0), 100).is_err());
        let other = &ALL[6];
        assert!(check(Callee::Target, other, PASS, counted(0, 100), 100).is_ok());
        assert!(check(Callee::Target, other, PASS, counted(0, 99), 100).is_err());
        assert!(check(Callee::Target, other, TX, counted(0, 100), 100).is_err());
    }
}
