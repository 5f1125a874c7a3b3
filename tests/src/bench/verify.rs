//! `verify`: what every program costs, against the budget.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use anyhow::{Context, Result};
use aya::EbpfLoader;
use aya::maps::{MapInfo, MapType};
use aya::programs::{ProgramInfo, SchedClassifier};
use aya::util::nr_cpus;
use lb_common::abi::{self, map};
use lb_common::bench;
use lb_userspace::ctl::out;
use lb_userspace::dataplane::load::{Balancer, Plan};
use lb_userspace::dataplane::object::{LAB_PASS, LB_DECAP, LB_PROBE};
use lb_userspace::dataplane::shape;
use lb_userspace::model::{Capacity, GroupKey, Name};
use serde::Serialize;

use super::budget::{Budget, Cost, PATH};
use super::object;
use super::programs::{GROUP_KEY, load, program};
use crate::pins::Pins;

/// All programs.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The running kernel; others rewrite and walk differently.
    pub kernel: String,
    /// By program.
    pub programs: Vec<ProgramCost>,
    /// What is wrong; empty when all is within the budget.
    pub problems: Vec<String>,
}

/// One program.
#[derive(Clone, Debug, Serialize)]
pub struct ProgramCost {
    /// Its name.
    pub program: &'static str,
    /// What it costs.
    #[serde(flatten)]
    pub cost: Cost,
    /// What it may cost.
    pub budget: Option<Cost>,
}

/// Loads every program with default capacities and compares it with the budget of the repository `root`. With
/// `set_budget` the budget becomes what they cost now, and a tenth.
///
/// # Errors
/// When a program can't be loaded, or the budget can't be read or written.
pub fn verify(root: &Path, set_budget: bool) -> Result<Report> {
    let mut budget = Budget::read(root)?;
    let costs = costs()?;
    if set_budget {
        let within = |(name, cost): &(&str, Cost)| ((*name).to_owned(), cost.with_headroom());
        budget.programs = costs.iter().map(within).collect();
        budget.write(root)?;
    }
    let mut problems: Vec<String> = costs
        .iter()
        .flat_map(|(name, cost)| judge(name, cost, &budget))
        .collect();
    problems.extend(budget.thawed(root).into_iter().map(|path| {
        format!("{path} is frozen and was changed: with another yardstick no ratio can be compared with an earlier one")
    }));
    let programs = costs.into_iter().map(|(name, cost)| ProgramCost {
        program: name,
        cost,
        budget: budget.programs.get(name).copied(),
    });
    Ok(Report {
        kernel: super::kernel()?,
        programs: programs.collect(),
        problems,
    })
}

fn judge(name: &str, cost: &Cost, budget: &Budget) -> Vec<String> {
    let Some(budget) = budget.programs.get(name) else {
        return vec![format!("{name} has no line in {PATH}")];
    };
    let problem = |(field, value, budget)| format!("{name}: {field} {value}, the budget is {budget}");
    cost.excess(budget).into_iter().map(problem).collect()
}

fn costs() -> Result<Vec<(&'static str, Cost)>> {
    let mut costs = vec![
        (abi::LB_XDP, balancer()?),
        (abi::LB_DECAP, decap()?),
        (abi::LB_PROBE, probe()?),
    ];
    for (name, object) in [
        (abi::LAB_PASS, LAB_PASS),
        (bench::WRAP, object::WRAP),
        (bench::FLOOR, object::FLOOR),
        (bench::REFERENCE, object::REFERENCE),
        (bench::GENERATE, object::GENERATE),
        (bench::SINK, object::SINK),
    ] {
        let mut ebpf = load(object, name)?;
        costs.push((name, cost(&program(&mut ebpf, name)?.info()?)?));
    }
    Ok(costs)
}

/// As the agent of a group loads it, without debug logs.
fn balancer() -> Result<Cost> {
    let pins = Pins::new().context("can't make a pin root (this needs root)")?;
    let plan = Plan {
        capacity: Capacity::default(),
        key: Some(&GroupKey::new(GROUP_KEY)),
        node: &"verify".parse::<Name>().expect("a valid name"),
        log_level: 0,
    };
    let mut balancer = Balancer::load(&pins.0, &plan).context("can't load lb_xdp")?;
    cost(&program(balancer.ebpf(), abi::LB_XDP)?.info()?)
}

/// With the maps' sizes as `lbctl decap attach` makes them.
fn decap() -> Result<Cost> {
    let shapes = shape::decap();
    let mut loader = EbpfLoader::new();
    for shape in &shapes {
        loader.map_max_entries(shape.name, shape.entries);
    }
    let mut ebpf = loader.load(LB_DECAP).context("can't load lb_decap")?;
    let program = program(&mut ebpf, abi::LB_DECAP)?;
    program.load().context("the kernel refused lb_decap")?;
    cost(&program.info()?)
}

/// With the maps' sizes as the agent makes them; the backends are the balancer's, and counted there too.
fn probe() -> Result<Cost> {
    let mut ebpf = EbpfLoader::new()
        .map_max_entries(map::BACKENDS, Capacity::default().backend_indexes())
        .map_max_entries(map::PROBE_STATS, Capacity::default().backend_indexes())
        .load(LB_PROBE)
        .context("can't load lb_probe")?;
    let program = ebpf.program_mut(abi::LB_PROBE).context(abi::LB_PROBE)?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load().context("the kernel refused lb_probe")?;
    cost(&program.info()?)
}

fn cost(info: &ProgramInfo) -> Result<Cost> {
    /// Bytes of one eBPF instruction.
    const INSTRUCTION: u64 = 8;
    let known = |value: Option<u32>, what: &str| {
        value
            .map(u64::from)
            .with_context(|| format!("the kernel doesn't tell {what}"))
    };
    let (mut shared, mut per_cpu) = (0, 0);
    for id in info.map_ids()?.context("the kernel doesn't tell the maps")? {
        let map = MapInfo::from_id(id)?;
        let bytes = memory(&map)?;
        match map.map_type()? {
            MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash => per_cpu += bytes,
            _ => shared += bytes,
        }
    }
    let cpus = nr_cpus().map_err(|(what, e)| anyhow::anyhow!("{what}: {e}"))? as u64;
    Ok(Cost {
        instructions: known(info.size_translated(), "a program's size")? / INSTRUCTION,
        walked: known(info.verified_instruction_count(), "what the verifier walked")?,
        jited_bytes: u64::from(info.size_jitted()),
        maps_kib: shared.div_ceil(1024),
        maps_kib_per_cpu: per_cpu.div_ceil(1024 * cpus),
    })
}

/// Bytes of a map, all CPUs together, from what the kernel says about its descriptor.
fn memory(map: &MapInfo) -> Result<u64> {
    let fd = map.fd()?;
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    let bytes = bytes.with_context(|| format!("{path} tells no memory"))?;
    bytes.trim().parse().with_context(|| format!("memlock:{bytes}"))
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let row = |p: &ProgramCost| {
            let Cost {
                instructions,
                walked,
                jited_bytes,
                maps_kib,
                maps_kib_per_cpu,
            } = p.cost;
            let budget = p.budget.unwrap_or_default();
            let of = |value: u64, budget: u64| format!("{value} / {budget}");
            [
                p.program.to_owned(),
                of(instructions, budget.instructions),
                of(walked, budget.walked),
                of(jited_bytes, budget.jited_bytes),
                of(maps_kib, budget.maps_kib),
                of(maps_kib_per_cpu, budget.maps_kib_per_cpu),
            ]
        };
        let columns = [
            "PROGRAM",
            ">INSTRUCTIONS",
            ">WALKED",
            ">JITED BYTES",
            ">MAPS KIB",
            ">KIB PER CPU",
        ];
        let table = out::table(columns, self.programs.iter().map(row));
        format!("{table}\n\nEach with its budget; Linux {}.", self.kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn above_the_budget_and_without_one_are_problems() {
        let cost = Cost {
            instructions: 100,
            ..Cost::default()
        };
        let mut budget = Budget::default();
        assert_eq!(judge("lb_xdp", &cost, &budget).len(), 1);
        budget.programs.insert("lb_xdp".to_owned(), cost);
        assert_eq!(judge("lb_xdp", &cost, &budget), Vec::<String>::new());
        let more = Cost {
            instructions: 101,
            ..cost
        };
        assert_eq!(
            judge("lb_xdp", &more, &budget),
            ["lb_xdp: instructions 101, the budget is 100"]
        );
    }
}
