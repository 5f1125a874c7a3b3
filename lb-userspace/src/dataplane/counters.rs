//! All counters at one moment.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_common::stop::Stop;
use lb_common::vip;

use super::Error;
use super::maps::Maps;
use crate::rate::{Reading, Source};
use crate::state::contents::Backend;

impl Maps {
    /// The counters of these VIPs (marks of addresses have none) and backends, and of every reason to stop; `at` is
    /// the present time on a monotonic clock.
    pub fn reading(
        &self,
        vips: &BTreeMap<vip::Key, vip::Value>,
        backends: &BTreeMap<u16, Backend>,
        at: Duration,
    ) -> Result<Reading, Error> {
        let mut counters = BTreeMap::new();
        for (&key, value) in vips.iter().filter(|(_, value)| value.is_served()) {
            let index = value.index;
            counters.insert(Source::Vip { key, index }, self.vip_counter(index)?);
        }
        for (&index, backend) in backends {
            let id = backend.info.id;
            counters.insert(Source::Backend { id, index }, self.backend_counter(index)?);
        }
        for &stop in Stop::ALL {
            counters.insert(stop.into(), self.stop_counter(stop)?);
        }
        Ok(Reading {
            at,
            maps: self.id,
            counters,
        })
    }
}
