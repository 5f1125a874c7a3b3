//! `metrics`.

use std::net::SocketAddr;

use super::{Check, Trail, place};
use crate::config::raw;
use crate::config::source::Excerpt;
use crate::config::what::What;
use crate::model::Metrics;

/// The endpoint, where there is to be one.
pub(super) fn metrics(check: &mut Check<'_>, file: &raw::File) -> Option<Metrics> {
    let section = file.metrics.as_ref()?;
    let default = Metrics {
        listen: Metrics::DEFAULT_LISTEN,
    };
    let Some(text) = &section.value.listen else {
        return Some(default);
    };
    let trail = Trail::Root.field("metrics");
    let listen = text.value.parse::<SocketAddr>().ok();
    let listen = listen.filter(|address| address.port() != 0 && !address.ip().is_multicast());
    if listen.is_none() {
        let what = What::Listen(Excerpt::new(&text.value));
        check.report(place(text), trail.field("listen"), what);
    }
    listen.map(|listen| Metrics { listen })
}
