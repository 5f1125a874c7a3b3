//! Changes under load: what is sent, what is changed, what is judged. For `cargo xtask run --scenario` and the labs.

mod campaign;
mod changes;
mod crowd;
mod fleet;
mod group;
mod summary;
mod tracked;
mod trial;
mod view;
mod work;

pub use campaign::{APART, Campaign, Findings, OFFSETS};
pub use changes::{Changes, run};
pub use crowd::{Crowd, Outcome, Probe, Running};
pub use fleet::{Fleet, Step};
pub use group::{Change, Guards, Operator, Setting};
pub use summary::{Summary, Told, Udp};
pub use tracked::{Sample, Sampler, share};
pub use trial::{Event, Trial, Try};
pub use work::{Traffic, Work};

use std::io::{self, Write};

use serde::Serialize;

use crate::error::{IoContext, LabError};

/// Writes the summary to standard output, as tables or as one JSON document.
pub fn tell(summary: &Summary, json: bool) -> Result<(), LabError> {
    print(summary, json, view::tables)
}

/// Writes the findings to standard output, as a table or as one JSON document.
pub fn tell_findings(findings: &Findings, json: bool) -> Result<(), LabError> {
    print(findings, json, Findings::table)
}

fn print<T: Serialize>(what: &T, json: bool, table: impl FnOnce(&T) -> String) -> Result<(), LabError> {
    let text = if json {
        serde_json::to_string_pretty(what).map_err(|source| LabError::Json {
            what: "summary".to_owned(),
            source,
        })?
    } else {
        table(what)
    };
    match writeln!(io::stdout(), "{text}") {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context(|| "write the summary".to_owned()),
    }
}
