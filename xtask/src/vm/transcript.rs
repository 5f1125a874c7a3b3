//! What a guest said, and what it is worth.

use super::machine::End;
use anyhow::{Result, bail};

/// Starts every line by which the guest's script reports.
pub(super) const MARK: &str = "tandem-vm:";

/// Starts every line by which a test says what this kernel did not let it run.
const NOT_RUN: &str = "NOT RUN: ";

/// What only a kernel in trouble says.
const TROUBLE: [&str; 5] = [
    "Kernel panic",
    "BUG: ",
    "Oops: ",
    "WARNING: CPU",
    "Out of memory: ",
];

/// One thing that a guest runs.
pub(super) struct Step {
    pub(super) name: &'static str,
    /// A line of shell.
    pub(super) command: String,
    /// Whether its tests have to pass or to fail.
    passes: bool,
}

impl Step {
    pub(super) fn passes(name: &'static str, command: &str) -> Self {
        Self {
            name,
            command: command.to_owned(),
            passes: true,
        }
    }

    /// A control: a guest in which it passes is not to be believed.
    pub(super) fn fails(name: &'static str, command: &str) -> Self {
        Self {
            passes: false,
            ..Self::passes(name, command)
        }
    }
}

/// A guest's console, line by line.
#[derive(Default)]
pub(super) struct Transcript {
    kernel: Option<String>,
    runs: Vec<Run>,
    trouble: Vec<String>,
    not_run: Vec<String>,
    is_off: bool,
}

/// One step as it went.
#[derive(Default)]
struct Run {
    name: String,
    passed: u32,
    failed: u32,
    status: Option<i32>,
}

impl Transcript {
    /// Takes the next line.
    pub(super) fn line(&mut self, line: &str) {
        if let Some(words) = line.strip_prefix(MARK) {
            self.report(&words.split_whitespace().collect::<Vec<_>>());
        } else if let Some(result) = line.strip_prefix("test result: ") {
            let count = |what: &str| {
                let before = result.split(what).next().unwrap_or_default().trim_end();
                before
                    .rsplit(' ')
                    .next()
                    .and_then(|number| number.parse().ok())
                    .unwrap_or(0)
            };
            if let Some(run) = self.runs.last_mut() {
                run.passed += count("passed;");
                run.failed += count("failed;");
            }
        } else if let Some(at) = line.find(NOT_RUN) {
            self.not_run.push(line[at + NOT_RUN.len()..].to_owned());
        } else if TROUBLE.iter().any(|sign| line.contains(sign)) {
            self.trouble.push(line.to_owned());
        }
    }

    fn report(&mut self, words: &[&str]) {
        match words {
            ["up", kernel] => self.kernel = Some((*kernel).to_owned()),
            ["begin", name] => self.runs.push(Run {
                name: (*name).to_owned(),
                ..Run::default()
            }),
            ["end", name, status] => {
                if let Some(run) = self.runs.last_mut().filter(|run| run.name == *name) {
                    run.status = status.parse().ok();
                }
            }
            ["off"] => self.is_off = true,
            _ => {}
        }
    }

    /// Whether the guest's script runs.
    pub(super) fn is_up(&self) -> bool {
        self.kernel.is_some()
    }

    /// What there is to say of a guest that did all that it had to.
    ///
    /// # Errors
    /// With the first thing that is wrong: silence is.
    pub(super) fn judge(&self, steps: &[Step], end: &End) -> Result<String> {
        if let Some(line) = self.trouble.first() {
            bail!("the kernel is in trouble: {line}");
        }
        match end {
            End::TooLong(limit) => bail!("stopped after {} s without an end", limit.as_secs()),
            End::NotUp => bail!("the guest did not come up"),
            End::Gone => {}
        }
        let Some(kernel) = &self.kernel else {
            bail!("the guest did not come up");
        };
        let mut counts = Vec::new();
        for step in steps {
            let Some(run) = self.runs.iter().find(|run| run.name == step.name) else {
                bail!("{} was not begun", step.name);
            };
            counts.push(run.judge(step)?);
        }
        if !self.is_off {
            bail!("the guest did not come to its end");
        }
        let mut summary = format!("{kernel}: {}", counts.join(", "));
        for line in &self.not_run {
            summary.push_str(&format!("; NOT RUN: {line}"));
        }
        Ok(summary)
    }
}

impl Run {
    fn judge(&self, step: &Step) -> Result<String> {
        let Self {
            name, passed, failed, ..
        } = self;
        match (self.status, step.passes) {
            (None, _) => bail!("{name} was begun and did not end"),
            (Some(0), true) if *passed == 0 => bail!("{name} ran no test at all"),
            (Some(0), true) if *failed == 0 => Ok(format!("{name} {passed} passed")),
            (Some(status), true) => {
                bail!("{name}: {failed} tests failed, {passed} passed, exit status {status}")
            }
            (Some(status), false) if status != 0 && *failed > 0 => Ok(format!("{name} failed as it has to")),
            (Some(status), false) => {
                bail!("{name} had to fail: {failed} tests failed, {passed} passed, exit status {status}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const GOOD: &str = "\
tandem-vm: up 6.1.0
tandem-vm: begin control
test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 54 filtered out; finished in 0.00s
tandem-vm: end control 101
tandem-vm: begin bpf
NOT RUN: this and that
test result: ok. 55 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.00s
tandem-vm: end bpf 0
tandem-vm: off
";

    fn judge(text: &str, end: End) -> Result<String, String> {
        let mut transcript = Transcript::default();
        text.lines().for_each(|line| transcript.line(line));
        let steps = [Step::fails("control", ""), Step::passes("bpf", "")];
        transcript.judge(&steps, &end).map_err(|error| error.to_string())
    }

    /// The good one with one line changed.
    fn with(line: &str, other: &str) -> String {
        assert!(GOOD.contains(line));
        GOOD.replace(line, other)
    }

    #[test]
    fn all_as_it_has_to_be() {
        let summary = judge(GOOD, End::Gone).unwrap();
        assert_eq!(
            summary,
            "6.1.0: control failed as it has to, bpf 55 passed; NOT RUN: this and that"
        );
    }

    #[test]
    fn every_other_outcome_is_a_failure() {
        let cases = [
            (with("end bpf 0", "end bpf 101"), "exit status 101"),
            (
                with("55 passed; 0 failed", "54 passed; 1 failed"),
                "1 tests failed",
            ),
            (with("55 passed", "0 passed"), "no test at all"),
            (with("tandem-vm: end bpf 0\n", ""), "did not end"),
            (with("tandem-vm: begin bpf\n", ""), "was not begun"),
            (with("tandem-vm: off\n", ""), "did not come to its end"),
            (with("end control 101", "end control 0"), "had to fail"),
            (with("0 passed; 1 failed", "1 passed; 0 failed"), "had to fail"),
            (
                with("tandem-vm: off", "[    9.1] Kernel panic - not syncing: Fatal"),
                "in trouble",
            ),
            (with("tandem-vm: up 6.1.0\n", ""), "did not come up"),
        ];
        for (text, words) in cases {
            let error = judge(&text, End::Gone).unwrap_err();
            assert!(error.contains(words), "{error:?} for\n{text}");
        }
        for end in [End::NotUp, End::TooLong(Duration::from_secs(9))] {
            judge(GOOD, end).unwrap_err();
        }
        judge("", End::Gone).unwrap_err();
    }
}
