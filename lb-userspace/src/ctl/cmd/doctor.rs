//! `lbctl doctor`: what is wrong with a backend. The agent asks it; here the answer becomes text.

use std::path::Path;

use anyhow::Result;

use super::order::path;
use super::wait;
use crate::api::client::Client;
use crate::api::dto::Plain;
use crate::ctl::args::Target;
use crate::ctl::out::Output;
use crate::doctor::{Answer, Report};

pub(super) fn run(socket: &Path, backend: &Target) -> Result<Output> {
    let client = Client::new(socket);
    let report: Report = wait(client.post(&path(backend, "doctor"), &Plain { force: false }))??;
    let (json, text) = (serde_json::to_value(&report)?, text(&report));
    Ok(if report.is_healthy() {
        Output::yes(json, text)
    } else {
        Output::no(json, text)
    })
}

fn text(report: &Report) -> String {
    let mut lines = vec![format!(
        "{} ({}): {}",
        report.backend, report.address, report.summary
    )];
    lines.push(String::new());
    for evidence in &report.evidence {
        let answer = match evidence.answer {
            Answer::Yes => "yes",
            Answer::No => "no",
            Answer::Unknown => "?",
        };
        lines.push(format!("  {answer:<4} {}", evidence.question));
        lines.push(format!("       {}", evidence.detail));
    }
    if !report.advice.is_empty() {
        lines.push(String::new());
        lines.extend(report.advice.iter().map(|advice| format!("→ {advice}")));
    }
    lines.join("\n")
}
