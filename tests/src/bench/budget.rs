//! The budget file `lb-ebpf/BUDGET`: what the programs may cost.
//!
//! One fact per line, a keyword and its values; empty lines and those that start with `#` are skipped:
//!
//! ```text
//! program lb_xdp instructions 1300 walked 9000 jited_bytes 7000 maps_kib 34000 maps_kib_per_cpu 80
//! ratio tcp4-hot 1.00
//! frozen <sha256> lb-ebpf/src/bench_reference/main.rs
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Where it is in the repository.
pub const PATH: &str = "lb-ebpf/BUDGET";

/// The `lb_xdp.o` of an earlier revision, beside which the gate measures.
pub const BASELINE: &str = "lb-ebpf/baseline/lb_xdp.o";

/// What one program costs, or may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Instructions as the kernel runs them, after its rewriting and dead code elimination.
    pub instructions: u64,
    /// Instructions that the verifier walked through, over all paths; the kernel's limit is a million.
    pub walked: u64,
    /// Bytes of machine code.
    pub jited_bytes: u64,
    /// Memory of its maps in KiB, without those that have a copy per CPU.
    pub maps_kib: u64,
    /// Memory of the others in KiB, for one CPU.
    pub maps_kib_per_cpu: u64,
}

const FIELDS: [&str; 5] = [
    "instructions",
    "walked",
    "jited_bytes",
    "maps_kib",
    "maps_kib_per_cpu",
];

impl Cost {
    fn values(&self) -> [u64; 5] {
        [
            self.instructions,
            self.walked,
            self.jited_bytes,
            self.maps_kib,
            self.maps_kib_per_cpu,
        ]
    }

    fn from_values(values: [u64; 5]) -> Self {
        let [instructions, walked, jited_bytes, maps_kib, maps_kib_per_cpu] = values;
        Self {
            instructions,
            walked,
            jited_bytes,
            maps_kib,
            maps_kib_per_cpu,
        }
    }

    /// The budget for something that costs this: a tenth more, since kernels differ in how they rewrite and walk.
    #[must_use]
    pub fn with_headroom(&self) -> Self {
        Self::from_values(self.values().map(|value| (value * 11).div_ceil(10)))
    }

    /// In what this is above `budget`: field, value, budget.
    pub fn excess(&self, budget: &Self) -> Vec<(&'static str, u64, u64)> {
        FIELDS
            .into_iter()
            .zip(self.values())
            .zip(budget.values())
            .filter(|((_, value), budget)| value > budget)
            .map(|((field, value), budget)| (field, value, budget))
            .collect()
    }
}

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Budget {
    /// By name of the program.
    pub programs: BTreeMap<String, Cost>,
    /// Net time to that of [`BASELINE`] as it was measured, by name of the case.
    pub ratios: BTreeMap<String, f64>,
    /// SHA-256 of files that may not change, by path in the repository.
    pub frozen: BTreeMap<String, String>,
}

impl Budget {
    /// Reads the budget of the repository `root`.
    ///
    /// # Errors
    /// When it can't be read, or a line says nothing known.
    pub fn read(root: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(root.join(PATH)).with_context(|| format!("can't read {PATH}"))?;
        Self::parse(&text)
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, root: &Path) -> Result<()> {
        std::fs::write(root.join(PATH), self.to_string()).with_context(|| format!("can't write {PATH}"))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut budget = Self::default();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            budget
                .line(line)
                .with_context(|| format!("{PATH}: line {}: {line}", index + 1))?;
        }
        Ok(budget)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["program", name, ref fields @ ..] => {
                let cost = parse_cost(fields)?;
                self.programs.insert(name.to_owned(), cost);
            }
            ["ratio", case, ratio] => {
                self.ratios.insert(case.to_owned(), ratio.parse()?);
            }
            ["frozen", sha256, path] => {
                self.frozen.insert(path.to_owned(), sha256.to_owned());
            }
            _ => bail!("not understood"),
        }
        Ok(())
    }

    /// Frozen files of the repository `root` that are not any more what they were.
    pub fn thawed(&self, root: &Path) -> Vec<String> {
        let changed = |path: &str, sha256: &str| {
            std::fs::read(root.join(path)).map_or(true, |bytes| hex(&Sha256::digest(bytes)) != *sha256)
        };
        let frozen = self.frozen.iter();
        let changed = frozen.filter(|(path, sha256)| changed(path, sha256));
        changed.map(|(path, _)| path.clone()).collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_cost(words: &[&str]) -> Result<Cost> {
    if words.len() != 2 * FIELDS.len() {
        bail!("needed are {} with a number each", FIELDS.join(", "));
    }
    let mut values = [0; FIELDS.len()];
    for ((value, pair), field) in values.iter_mut().zip(words.chunks_exact(2)).zip(FIELDS) {
        if pair[0] != field {
            bail!("{} stands where {field} has to be", pair[0]);
        }
        *value = pair[1].parse().with_context(|| format!("{field} {}", pair[1]))?;
    }
    Ok(Cost::from_values(values))
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# What the programs may cost. `cargo xtask verify` and CI fail above it (docs/adr/0006-bench.md).\n\
             # program: the most. To change it on purpose: `cargo xtask verify --set-budget` (as it is, and a tenth)."
        )?;
        for (name, cost) in &self.programs {
            write!(f, "program {name}")?;
            for (field, value) in FIELDS.into_iter().zip(cost.values()) {
                write!(f, " {field} {value}")?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "# ratio: to {BASELINE}, as measured by `cargo xtask bench xdp --gate`; the gate allows three tenths more."
        )?;
        for (case, ratio) in &self.ratios {
            writeln!(f, "ratio {case} {ratio:.2}")?;
        }
        writeln!(
            f,
            "# frozen: may not change at all, or no ratio can be compared with an earlier one."
        )?;
        for (path, sha256) in &self.frozen {
            writeln!(f, "frozen {sha256} {path}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        let cost = Cost::from_values([10, 20, 30, 40, 50]);
        Budget {
            programs: [("lb_xdp".to_owned(), cost)].into(),
            ratios: [("tcp4-hot".to_owned(), 1.5)].into(),
            frozen: [("a/b.rs".to_owned(), "00".to_owned())].into(),
        }
    }

    #[test]
    fn text_and_back() {
        let text = budget().to_string();
        assert_eq!(Budget::parse(&text).expect("our own text"), budget());
    }

    #[test]
    fn lines_that_say_nothing_are_refused() {
        for line in [
            "programme lb_xdp",
            "program lb_xdp instructions 1",
            "program x walked 1 instructions 2 jited_bytes 3 maps_kib 4 maps_kib_per_cpu 5",
            "ratio tcp4-hot fast",
        ] {
            let error = Budget::parse(line).expect_err(line);
            assert!(format!("{error:#}").contains("line 1"), "{error:#}");
        }
    }

    #[test]
    fn excess_is_told_by_field() {
        let budget = Cost::from_values([10, 20, 30, 40, 50]);
        assert_eq!(budget.excess(&budget), []);
        let more = Cost::from_values([11, 20, 29, 40, 60]);
        assert_eq!(
            more.excess(&budget),
            [("instructions", 11, 10), ("maps_kib_per_cpu", 60, 50)]
        );
        assert_eq!(more.excess(&more.with_headroom()), []);
    }

    #[test]
    fn the_yardsticks_are_frozen() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let budget = Budget::read(&root).expect("the repository's budget");
        assert!(budget.frozen.contains_key("lb-ebpf/src/bench_reference/main.rs"));
        assert!(budget.frozen.contains_key(BASELINE));
        assert_eq!(budget.thawed(&root), Vec::<String>::new());
        let mut other = budget;
        other
            .frozen
            .values_mut()
            .for_each(|sha256| sha256.replace_range(..1, "x"));
        assert_eq!(other.thawed(&root).len(), other.frozen.len());
    }
}
