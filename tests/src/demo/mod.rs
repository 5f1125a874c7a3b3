//! What `cargo xtask run` shows: real traffic through a lab, live or once with a verdict.

mod keys;
mod live;
mod once;
mod power;
mod summary;
mod view;

pub use live::live;
pub use once::once;
pub use summary::{BackendShare, NodeShare, Summary};
pub(crate) use view::{aligned, table};

use crate::error::LabError;
use crate::host::Node;
use crate::lab::Lab;
use crate::traffic::Report;

/// The figures of the whole lab at this moment, with each node's packets.
fn summarise(
    lab: &Lab,
    report: &Report,
    seconds: f64,
    packets: impl Fn(&Node) -> Result<u64, LabError>,
) -> Result<Summary, LabError> {
    let packets = lab.nodes().iter().map(|n| Ok((n.name().to_owned(), packets(n)?)));
    let weights = lab.backends().iter().map(|b| (b.name().to_owned(), b.weight()));
    Ok(Summary::new(
        report,
        packets.collect::<Result<_, LabError>>()?,
        weights.collect(),
        seconds,
    ))
}
