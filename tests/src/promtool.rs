//! Prometheus's own judge of metrics and rules. Not every machine has it, so a test may have to go without, and says so;
//! with `CI` set that is a failure.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::error::{IoContext, LabError};

/// Where `cargo xtask test` leaves it, from the root of the repository.
const FETCHED: &str = "target/tools/promtool";

/// The program; `None`, and a word on standard error, where this machine has none.
///
/// # Panics
/// Under CI, which must have it.
pub fn find() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let fetched = root.expect("the package lies in the repository").join(FETCHED);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let known = std::env::split_paths(&path).map(|folder| folder.join("promtool"));
    let found = std::iter::once(fetched).chain(known).find(|file| file.is_file());
    if found.is_none() {
        let text =
            "NOT CHECKED: no promtool (Debian's package prometheus has it; `cargo xtask test` fetches it)";
        assert!(std::env::var_os("CI").is_none(), "{text}");
        // Past the harness, which keeps back what tests that pass print.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
    found
}

/// What it says to `args`, with `input` on its standard input; `None` as in [`find`].
///
/// # Errors
/// It can't be run.
pub fn run(args: &[&str], input: &[u8]) -> Result<Option<Output>, LabError> {
    let Some(program) = find() else { return Ok(None) };
    let what = || format!("run promtool {}", args.join(" "));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(what)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input).context(what)?;
    }
    child.wait_with_output().context(what).map(Some)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use lb_userspace::metrics::{Kind, rows};

    use super::*;

    fn dist(name: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist").join(name);
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Words of a text that look like our metrics.
    fn named(text: &str) -> BTreeSet<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let ours = words.filter(|word| word.starts_with("tandem_") || word.starts_with("process_"));
        ours.map(str::to_owned).collect()
    }

    fn is_known(name: &str) -> bool {
        rows().any(|row| {
            let part = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            row.name == name || row.kind == Kind::Histogram && Some(row.name) == part
        })
    }

    #[test]
    fn alerts_and_dashboard_name_what_there_is() {
        for file in ["alerts.yml", "alerts.test.yml", "grafana/tandem.json"] {
            let text = fs::read_to_string(dist(file)).expect("it is there");
            let named = named(&text);
            assert!(named.len() > 5, "{file}: {named:?}");
            let unknown: Vec<&String> = named.iter().filter(|name| !is_known(name)).collect();
            assert!(unknown.is_empty(), "{file}: {unknown:?}");
        }
    }

    #[test]
    fn a_name_that_nobody_serves_is_found() {
        let named = named("sum(tandem_vip_packets_total) / tandem_vip_pakets_total");
        let known: Vec<bool> = named.iter().map(|name| is_known(name)).collect();
        assert_eq!(known, [true, false]);
    }

    #[test]
    fn the_dashboard_is_one() {
        let text = fs::read_to_string(dist("grafana/tandem.json")).expect("it is there");
        let board: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let panels = board["panels"].as_array().expect("panels");
        let mut ids = BTreeSet::new();
        for panel in panels {
            assert!(ids.insert(panel["id"].as_u64()), "{} twice", panel["id"]);
            assert!(
                panel["title"].is_string() && panel["gridPos"]["w"].is_u64(),
                "{panel}"
            );
            if panel["type"] != "row" {
                let targets = panel["targets"].as_array().expect("targets");
                assert!(
                    !targets.is_empty() && targets.iter().all(|t| t["expr"].is_string()),
                    "{panel}"
                );
            }
        }
    }

    #[test]
    fn promtool_takes_the_alert_rules() {
        for args in [
            ["check", "rules", "alerts.yml"],
            ["test", "rules", "alerts.test.yml"],
        ] {
            let file = dist(args[2]);
            let Some(out) = run(&[args[0], args[1], &file], b"").expect("promtool runs") else {
                return;
            };
            let text =
                String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{text}");
        }
    }

    /// Each alert is shown to fire and not to fire.
    #[test]
    fn every_alert_has_a_test() {
        let rules = fs::read_to_string(dist("alerts.yml")).expect("it is there");
        let rules: serde_json::Value = serde_yaml::from_str(&rules).expect("YAML");
        let tests = fs::read_to_string(dist("alerts.test.yml")).expect("it is there");
        let groups = rules["groups"].as_array().expect("groups");
        let all = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().expect("rules"));
        let mut seen = BTreeSet::new();
        for rule in all {
            let name = rule["alert"].as_str().expect("a name");
            assert!(seen.insert(name), "{name} twice");
            let severity = rule["labels"]["severity"].as_str();
            assert!(matches!(severity, Some("page" | "ticket")), "{name}");
            assert!(rule["annotations"]["summary"].is_string(), "{name}");
            assert!(rule["annotations"]["description"].is_string(), "{name}");
            let checks = tests.matches(&format!("alertname: {name}\n")).count();
            assert!(checks >= 2, "{name} has {checks} tests");
        }
        assert!(seen.len() >= 15, "{seen:?}");
    }
}
