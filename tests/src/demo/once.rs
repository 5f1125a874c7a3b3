//! A fixed number of requests and a verdict.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::summary::Summary;
use super::{summarise, view};
use crate::error::{IoContext, LabError};
use crate::host::Node;
use crate::lab::Lab;
use crate::topo::Family;
use crate::traffic::{Job, Pace};
use crate::wait::{self, Interrupt};

/// Requests at a time per job.
const WORKERS: u32 = 16;
/// Far more than even the largest number of requests takes.
const WITHIN: Duration = Duration::from_secs(600);

/// Makes `requests` HTTP requests over IPv4, as many over IPv6 and as many UDP echoes (half over each),
/// and writes the summary to standard output, as tables or as one JSON document. Its problems are the verdict.
pub fn once(lab: &Lab, requests: u32, json: bool, interrupt: &Interrupt) -> Result<Summary, LabError> {
    let half = requests.div_ceil(2);
    let count = |requests| Pace::Count {
        requests,
        workers: WORKERS,
    };
    let mut jobs: Vec<Job> = Family::BOTH
        .map(|family| Job::http(family, count(requests)))
        .into();
    jobs.extend(Family::BOTH.map(|family| Job::udp(family, count(half))));
    let start = Instant::now();
    let mut load = lab.client().load(jobs)?;
    wait::until_ok(WITHIN, "the end of the requests", || {
        Ok(interrupt.raised() || load.ended()?)
    })?;
    let report = load.stop()?;
    let mut summary = summarise(lab, &report, start.elapsed().as_secs_f64(), Node::packets)?;
    summary.expect_requests(u64::from(requests) * 2 + u64::from(half) * 2);
    summary.problems.extend(report.errors());
    let text = if json {
        serde_json::to_string_pretty(&summary).map_err(|source| LabError::Json {
            what: "summary".to_owned(),
            source,
        })?
    } else {
        view::tables(&summary, None)
    };
    match writeln!(io::stdout(), "{text}") {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(summary),
        written => written
            .context(|| "write the summary".to_owned())
            .map(|()| summary),
    }
}
