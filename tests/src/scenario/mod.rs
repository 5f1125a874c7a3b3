//! Changes under load: what is sent, what is changed, what is judged. For `cargo xtask run --scenario` and the labs.

mod changes;
mod fleet;
mod summary;
mod tracked;
mod view;
mod work;

pub use changes::{Changes, run};
pub use fleet::{Fleet, Step};
pub use summary::{Summary, Told, Udp};
pub use tracked::{Sample, Sampler, share};
pub use work::{Traffic, Work};

use std::io::{self, Write};

use crate::error::{IoContext, LabError};

/// Writes the summary to standard output, as tables or as one JSON document.
pub fn tell(summary: &Summary, json: bool) -> Result<(), LabError> {
    let text = if json {
        serde_json::to_string_pretty(summary).map_err(|source| LabError::Json {
            what: "summary".to_owned(),
            source,
        })?
    } else {
        view::tables(summary)
    };
    match writeln!(io::stdout(), "{text}") {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context(|| "write the summary".to_owned()),
    }
}
