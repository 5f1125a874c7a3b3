//! Snapshot → text.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_common::stop::Action;
use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric as Sample, MetricFamily, MetricType};

use super::reason;
use super::snapshot::{Interface, Programmed, Snapshot, Told};
use super::table::{self, Kind, Metric};
use crate::dataplane::flows::Table;
use crate::health::monitor::Row;
use crate::health::{Phase, task};
use crate::state::standing::Standing;

const PHASES: [Phase; 5] = [
    Phase::Unknown,
    Phase::Up,
    Phase::Draining,
    Phase::Suspect,
    Phase::Dead,
];

const STANDINGS: [Standing; 4] = [
    Standing::Up,
    Standing::Draining,
    Standing::Suspect,
    Standing::Dead,
];

/// A snapshot in Prometheus's text format. What a snapshot lacks has no samples, and a metric without samples is left out.
pub fn render(snapshot: &Snapshot) -> String {
    let mut page = Page::default();
    if let Some(maps) = &snapshot.maps {
        page.packets(maps);
        page.pools(maps, &snapshot.told);
    }
    if let Some(interfaces) = &snapshot.interfaces {
        page.interfaces(interfaces);
    }
    page.flow_table(&snapshot.told);
    if let Some(health) = &snapshot.health {
        page.health(health);
    }
    page.group(&snapshot.told);
    page.peers(&snapshot.peers);
    if let Some(records) = &snapshot.records {
        page.sync(records);
    }
    page.control(snapshot);
    page.charter(snapshot);
    page.agent(snapshot);
    page.0.extend(snapshot.own.iter().cloned());
    TextEncoder::new()
        .encode_to_string(&page.0)
        .expect("families have names and samples")
}

/// The families of one answer.
#[derive(Default)]
pub(super) struct Page(Vec<MetricFamily>);

impl Page {
    /// One metric. Samples of the same labels, which would spoil the whole answer, are summed up.
    pub(super) fn put<const N: usize, L: ToString>(
        &mut self,
        metric: &Metric<N>,
        samples: impl IntoIterator<Item = ([L; N], f64)>,
    ) {
        let mut rows: BTreeMap<[String; N], f64> = BTreeMap::new();
        for (labels, value) in samples {
            *rows.entry(labels.map(|label| label.to_string())).or_default() += value;
        }
        if rows.is_empty() {
            return;
        }
        let pair = |(name, value): (&&str, String)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value);
            pair
        };
        let sample = |(labels, value): ([String; N], f64)| {
            let pairs = metric.labels.iter().zip(labels).map(pair).collect();
            let mut sample = Sample::from_label(pairs);
            if metric.kind == Kind::Counter {
                let mut counter = Counter::default();
                counter.set_value(value);
                sample.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                sample.set_gauge(gauge);
            }
            sample
        };
        let mut family = MetricFamily::default();
        family.set_name(metric.name.to_owned());
        family.set_help(metric.help.to_owned());
        family.set_field_type(match metric.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(rows.into_iter().map(sample).collect());
        self.0.push(family);
    }

    /// A metric without labels.
    pub(super) fn one(&mut self, metric: &Metric<0>, value: f64) {
        self.put(metric, [([""; 0], value)]);
    }

    fn packets(&mut self, maps: &Programmed) {
        let vips = || maps.vips.iter().map(|v| ([v.name.as_str(), &v.pool], v.counter));
        self.put(&table::VIP_PACKETS, vips().map(|(l, c)| (l, real(c.packets))));
        self.put(&table::VIP_BYTES, vips().map(|(l, c)| (l, real(c.bytes))));
        let backends = || {
            let rows = maps.backends.iter();
            rows.map(|b| ([b.pool.as_str(), &b.name], b.counter))
        };
        self.put(
            &table::BACKEND_PACKETS,
            backends().map(|(l, c)| (l, real(c.packets))),
        );
        self.put(&table::BACKEND_BYTES, backends().map(|(l, c)| (l, real(c.bytes))));
        let stops = || {
            let rows = maps.stops.iter();
            rows.map(|(stop, counter)| ([stop.row().name, action(stop.action())], counter))
        };
        self.put(&table::STOP_PACKETS, stops().map(|(l, c)| (l, real(c.packets))));
        self.put(&table::STOP_BYTES, stops().map(|(l, c)| (l, real(c.bytes))));
        let picks = || maps.picks.iter().map(|(by, counter)| ([by.name()], counter));
        self.put(&table::PICK_PACKETS, picks().map(|(l, c)| (l, real(c.packets))));
        self.put(&table::PICK_BYTES, picks().map(|(l, c)| (l, real(c.bytes))));
    }

    fn interfaces(&mut self, interfaces: &[Interface]) {
        let info = interfaces.iter().map(|i| ([i.name.as_str(), i.mode], 1.0));
        self.put(&table::INTERFACE_INFO, info);
        let there = || {
            interfaces
                .iter()
                .filter_map(|i| Some(([i.name.as_str()], i.traffic?)))
        };
        let mtu = there().map(|(l, t)| (l, f64::from(t.mtu)));
        self.put(&table::INTERFACE_MTU, mtu);
        self.put(
            &table::RECEIVE_PACKETS,
            there().map(|(l, t)| (l, real(t.received.packets))),
        );
        self.put(
            &table::RECEIVE_BYTES,
            there().map(|(l, t)| (l, real(t.received.bytes))),
        );
        self.put(
            &table::RECEIVE_DROPPED,
            there().map(|(l, t)| (l, real(t.received_dropped))),
        );
        self.put(
            &table::TRANSMIT_PACKETS,
            there().map(|(l, t)| (l, real(t.sent.packets))),
        );
        self.put(
            &table::TRANSMIT_BYTES,
            there().map(|(l, t)| (l, real(t.sent.bytes))),
        );
        self.put(
            &table::TRANSMIT_DROPPED,
            there().map(|(l, t)| (l, real(t.sent_dropped))),
        );
    }

    fn pools(&mut self, maps: &Programmed, told: &Told) {
        let pools = || maps.pools.iter().map(|p| ([p.name.as_str()], p));
        self.put(
            &table::POOL_BACKENDS,
            pools().map(|(l, p)| (l, f64::from(p.backends))),
        );
        self.put(
            &table::POOL_EMPTY,
            pools().map(|(l, p)| (l, f64::from(p.slots.empty))),
        );
        self.put(
            &table::POOL_TRACKED,
            pools().map(|(l, p)| (l, f64::from(p.slots.tracked))),
        );
        self.put(
            &table::POOL_CLOSING,
            pools().map(|(l, p)| (l, f64::from(p.slots.closing))),
        );
        let backends = || maps.backends.iter().map(|b| ([b.pool.as_str(), &b.name], b));
        self.put(
            &table::BACKEND_SLOTS,
            backends().map(|(l, b)| (l, f64::from(b.slots))),
        );
        self.put(
            &table::BACKEND_WEIGHT,
            backends().map(|(l, b)| (l, f64::from(b.weight))),
        );
        self.put(&table::NEXT_HOP, backends().map(|(l, b)| (l, truth(b.reachable))));
        let set = backends().flat_map(|([pool, name], b)| {
            let now = told.standing(b.id);
            STANDINGS.map(|standing| ([pool, name, standing.name()], truth(standing == now)))
        });
        self.put(&table::STANDING, set);
    }

    fn flow_table(&mut self, told: &Told) {
        let census = &told.census;
        // Before the first sweep there is no room.
        let tables = || {
            (0..)
                .zip(Table::ALL)
                .filter(|&(i, _): &(usize, _)| census.room[i] > 0)
        };
        let entries = tables().map(|(i, table)| ([table.name()], f64::from(census.entries[i])));
        self.put(&table::TABLE_ENTRIES, entries);
        let room = tables().map(|(i, table)| ([table.name()], f64::from(census.room[i])));
        self.put(&table::TABLE_CAPACITY, room);
        self.one(&table::EXPIRED, real(census.expired));
        self.one(&table::PURGED, real(census.purged));
        self.one(&table::SWEEPS, real(census.sweeps));
        self.one(&table::OVERDUE, f64::from(census.overdue));
        self.one(&table::RETIRED, real(census.retired));
        self.one(&table::REOPENED, real(census.reopened));
    }

    fn health(&mut self, health: &task::Snapshot) {
        let open = |pool: &str| health.open.iter().any(|(name, _)| name == pool);
        // Rows of one pool stand together, so this names each pool once.
        let mut pools: Vec<&str> = health.backends.iter().map(|row| row.pool.as_str()).collect();
        pools.dedup();
        self.put(
            &table::POOL_FAIL_OPEN,
            pools.into_iter().map(|pool| ([pool], truth(open(pool)))),
        );
        let rows = || {
            health
                .backends
                .iter()
                .map(|row| ([row.pool.as_str(), &row.name], row))
        };
        let set = rows().flat_map(|([pool, name], row)| {
            PHASES.map(|phase| ([pool, name, phase.name()], truth(phase == row.phase)))
        });
        self.put(&table::PHASE, set);
        self.put(
            &table::PHASE_SINCE,
            rows().map(|(l, row)| (l, seconds(row.since_unix_ms))),
        );
        self.put(
            &table::PHASE_CHANGES,
            rows().map(|(l, row)| (l, real(row.counts.changes))),
        );
        let info = health.backends.iter().map(|row| {
            let reason = reason::label(&row.reason);
            (
                [row.pool.clone(), row.name.clone(), row.check.to_owned(), reason],
                1.0,
            )
        });
        self.put(&table::HEALTH_INFO, info);
        self.put(
            &table::PROBES,
            rows().flat_map(|([pool, name], row)| outcomes(pool, name, row)),
        );
        let last = || rows().filter_map(|(l, row)| Some((l, row.last.as_ref()?)));
        let took = last().map(|(l, last)| (l, Duration::from_micros(last.took_us).as_secs_f64()));
        self.put(&table::PROBE_DURATION, took);
        self.put(
            &table::PROBE_TIME,
            last().map(|(l, last)| (l, seconds(last.at_unix_ms))),
        );
    }

    fn control(&mut self, snapshot: &Snapshot) {
        let Told {
            generation,
            work,
            loads,
            ..
        } = &snapshot.told;
        self.one(&table::DESIRED, real(*generation));
        if let Some(maps) = &snapshot.maps {
            self.one(&table::APPLIED, real(maps.generation));
            self.one(&table::APPLIED_TIME, real(maps.applied_at));
        }
        self.one(&table::IN_STEP, truth(work.in_step));
        self.one(&table::RING_BUILDS, real(work.rings));
        self.one(&table::SLOTS_CHANGED, real(work.slots));
        self.one(&table::MAP_WRITES, real(work.writes));
        self.one(&table::RELOAD_OK, truth(loads.last_applied));
        self.one(&table::RELOAD_TIME, seconds(loads.applied_at.0));
        let results = [("applied", loads.applied), ("refused", loads.refused)];
        self.put(
            &table::RELOADS,
            results.map(|(result, count)| ([result], real(count))),
        );
    }

    fn charter(&mut self, snapshot: &Snapshot) {
        let Some(charter) = &snapshot.told.charter else {
            return;
        };
        self.one(&table::CHARTER, real(charter.generation));
        self.one(&table::CHARTER_PENDING, truth(charter.pending));
        self.one(&table::CHARTER_EQUAL, truth(charter.equal));
        self.one(&table::CHARTER_IN_FORCE, truth(charter.in_force));
        self.one(&table::CHARTER_DRIFT, truth(charter.drift));
        self.one(&table::CHARTER_MALFORMED, real(charter.malformed));
    }

    fn agent(&mut self, snapshot: &Snapshot) {
        let build = &snapshot.build;
        self.put(
            &table::BUILD,
            [([&build.version, &build.object, &snapshot.told.node], 1.0)],
        );
        let parts = [
            ("maps", snapshot.maps.is_some()),
            ("interfaces", snapshot.interfaces.is_some()),
            ("health", snapshot.health.is_some()),
        ];
        self.put(
            &table::PART_SUCCESS,
            parts.map(|(part, there)| ([part], truth(there))),
        );
        self.one(&table::COLLECT_DURATION, snapshot.took.as_secs_f64());
    }
}

fn outcomes<'r>(pool: &'r str, name: &'r str, row: &Row) -> [([&'r str; 3], f64); 4] {
    let counts = &row.counts;
    [
        ("good", counts.good),
        ("refuses", counts.refuses),
        ("silent", counts.silent),
        ("unasked", counts.unasked),
    ]
    .map(|(outcome, count)| ([pool, name, outcome], real(count)))
}

const fn action(action: Action) -> &'static str {
    match action {
        Action::Pass => "pass",
        Action::Drop => "drop",
    }
}

pub(super) const fn truth(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

/// Prometheus knows no other numbers; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "samples are doubles")]
pub(super) const fn real(count: u64) -> f64 {
    count as f64
}

/// Unix time in milliseconds → seconds.
pub(super) fn seconds(millis: u64) -> f64 {
    real(millis) / 1000.0
}

#[cfg(test)]
mod tests;
