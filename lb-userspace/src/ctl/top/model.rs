//! What is shown: readings and keys in, sorted rows out.

use std::collections::BTreeMap;

use lb_common::stop::{Action, Stop};

use crate::ctl::sample::Sample;
use crate::rate::{Rate, Rates};

/// What fills the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// Something of everything.
    Overview,
    /// VIPs alone.
    Vips,
    /// Backends alone.
    Backends,
    /// Reasons to stop alone.
    Stops,
}

impl View {
    /// All of them, as the tabs stand.
    pub(super) const ALL: [Self; 4] = [Self::Overview, Self::Vips, Self::Backends, Self::Stops];

    /// The tab's title.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Overview => "overview",
            Self::Vips => "VIPs",
            Self::Backends => "backends",
            Self::Stops => "stops",
        }
    }

    /// The view so many tabs to the right, round the end.
    fn moved(self, by: usize) -> Self {
        let place = Self::ALL.iter().position(|&view| view == self).unwrap_or(0);
        Self::ALL[(place + by) % Self::ALL.len()]
    }
}

/// What rows are sorted by; names are in order from the first one on, figures from the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Names.
    Name,
    /// Packets of a second.
    Packets,
    /// Bits of a second.
    Bits,
}

impl Sort {
    /// In a word.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Packets => "packets",
            Self::Bits => "bits",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Name => Self::Packets,
            Self::Packets => Self::Bits,
            Self::Bits => Self::Name,
        }
    }
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Quit,
    NextView,
    PreviousView,
    Up(usize),
    Down(usize),
    Pause,
    Sort,
}

/// The whole state of the screen.
#[derive(Debug)]
pub(super) struct Model {
    /// What fills the screen.
    pub(super) view: View,
    /// What rows are sorted by.
    pub(super) sort: Sort,
    /// Nothing changes until it is taken back.
    pub(super) paused: bool,
    /// Rows that are scrolled away.
    pub(super) offset: usize,
    /// What is shown: the last look with its rates, which there are none of before the second one; or why there is
    /// none.
    pub(super) shown: Result<(Sample, Rates), String>,
    /// The last look that went well.
    last: Sample,
}

/// A VIP's row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Vip {
    pub(super) name: String,
    pub(super) pool: String,
    pub(super) rate: Rate,
    /// Of all forwarded packets; `None` where there are none.
    pub(super) share: Option<f64>,
}

/// A backend's row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Backend {
    pub(super) name: String,
    pub(super) next_hop: &'static str,
    pub(super) rate: Rate,
    /// Of the pool's packets; `None` where there are none.
    pub(super) share: Option<f64>,
    /// The weight's share of the pool's weights.
    pub(super) by_weight: Option<f64>,
    /// The share of the pool's slots.
    pub(super) by_slots: Option<f64>,
}

/// A stop reason's row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stopped {
    pub(super) name: &'static str,
    pub(super) action: Action,
    pub(super) rate: Rate,
    /// Packets ever since the maps were made.
    pub(super) total: u64,
    pub(super) text: &'static str,
}

impl Model {
    /// From the first look on.
    pub(super) fn new(first: Sample) -> Self {
        Self {
            view: View::Overview,
            sort: Sort::Name,
            paused: false,
            offset: 0,
            shown: Ok((first.clone(), Rates::default())),
            last: first,
        }
    }

    /// Takes a further look, or why there was none. While paused it is noted and not shown.
    pub(super) fn take(&mut self, sample: Result<Sample, String>) {
        let shown = sample.map(|sample| {
            let rates = Rates::between(&self.last.reading, &sample.reading);
            self.last = sample.clone();
            (sample, rates)
        });
        if !self.paused {
            self.shown = shown;
        }
    }

    /// Does what a key asks for; `false` = to end.
    pub(super) fn handle(&mut self, command: Command) -> bool {
        match command {
            Command::Quit => return false,
            Command::NextView => (self.view, self.offset) = (self.view.moved(1), 0),
            Command::PreviousView => (self.view, self.offset) = (self.view.moved(View::ALL.len() - 1), 0),
            Command::Up(rows) => self.offset = self.offset.saturating_sub(rows),
            Command::Down(rows) => self.offset = (self.offset + rows).min(self.longest().saturating_sub(1)),
            Command::Pause => self.paused = !self.paused,
            Command::Sort => (self.sort, self.offset) = (self.sort.next(), 0),
        }
        true
    }

    /// Rows of the longest list.
    fn longest(&self) -> usize {
        let lists = |(sample, _): &(Sample, Rates)| sample.vips.len().max(sample.backends.len());
        self.shown.as_ref().map_or(0, lists).max(Stop::ALL.len())
    }

    /// Rows of VIPs.
    pub(super) fn vips(&self) -> Vec<Vip> {
        let Ok((sample, rates)) = &self.shown else {
            return Vec::new();
        };
        let all = rates.forwarded().packets;
        let row = |vip: &crate::ctl::sample::Vip| Vip {
            name: vip.name.clone(),
            pool: vip.pool.clone(),
            rate: rates.of(vip.source),
            share: share(rates.of(vip.source).packets, all),
        };
        let mut rows: Vec<Vip> = sample.vips.iter().map(row).collect();
        self.order(&mut rows, |row| row.rate);
        rows
    }

    /// Rows of backends.
    pub(super) fn backends(&self) -> Vec<Backend> {
        let Ok((sample, rates)) = &self.shown else {
            return Vec::new();
        };
        let mut pools: BTreeMap<&str, (f64, f64, f64)> = BTreeMap::new();
        for backend in &sample.backends {
            let (packets, weights, slots) = pools.entry(&backend.pool).or_default();
            *packets += rates.of(backend.source).packets;
            *weights += f64::from(backend.weight);
            *slots += exact(backend.slots);
        }
        let row = |backend: &crate::ctl::sample::Backend| {
            let (packets, weights, slots) = pools[backend.pool.as_str()];
            let rate = rates.of(backend.source);
            Backend {
                name: format!("{}/{}", backend.pool, backend.name),
                next_hop: backend.next_hop,
                rate,
                share: share(rate.packets, packets),
                by_weight: share(f64::from(backend.weight), weights),
                by_slots: share(exact(backend.slots), slots),
            }
        };
        let mut rows: Vec<Backend> = sample.backends.iter().map(row).collect();
        self.order(&mut rows, |row| row.rate);
        rows
    }

    /// Rows of reasons that packets have stopped for.
    pub(super) fn stops(&self) -> Vec<Stopped> {
        let Ok((sample, rates)) = &self.shown else {
            return Vec::new();
        };
        let row = |&stop: &Stop| {
            let about = stop.row();
            let counter = sample.reading.counters.get(&stop.into()).copied();
            Stopped {
                name: about.name,
                action: about.action,
                rate: rates.of(stop),
                total: counter.unwrap_or_default().packets,
                text: about.text,
            }
        };
        let mut rows: Vec<Stopped> = Stop::ALL.iter().map(row).filter(|row| row.total > 0).collect();
        self.order(&mut rows, |row| row.rate);
        rows
    }

    /// Sorts rows that stand in the order of their names (stops in that of the pipeline).
    fn order<T>(&self, rows: &mut [T], rate: impl Fn(&T) -> Rate) {
        let figure = |row: &T| match self.sort {
            Sort::Name => 0.0,
            Sort::Packets => rate(row).packets,
            Sort::Bits => rate(row).bytes,
        };
        rows.sort_by(|a, b| figure(b).total_cmp(&figure(a)));
    }
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// A number of slots, which is far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "there are at most 2^32 slots")]
fn exact(slots: usize) -> f64 {
    slots as f64
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use lb_common::stats::Counter;
    use lb_common::vip;

    use super::*;
    use crate::rate::{Reading, Source};

    const VIP: Source = Source::Vip {
        key: vip::Key::new(lb_common::addr::Addr([0; 4]), lb_common::be::Be16::new(80), 6),
        index: 0,
    };

    fn backend(index: u16) -> Source {
        Source::Backend {
            id: u64::from(index),
            index,
        }
    }

    /// One VIP, a pool of two backends of weights 1 and 3 and one of an idle backend; packets of a hundred bytes.
    pub(in crate::ctl::top) fn sample(seconds: u64, be1: u64, be2: u64, not_vip: u64) -> Sample {
        let counter = |packets| Counter {
            packets,
            bytes: packets * 100,
        };
        let counters = [
            (VIP, be1 + be2),
            (backend(1), be1),
            (backend(2), be2),
            (backend(3), 0),
            (Stop::NotVip.into(), not_vip),
        ];
        let row = |index: u16, pool: &str, weight, slots, next_hop| crate::ctl::sample::Backend {
            source: backend(index),
            pool: pool.to_owned(),
            name: format!("be{index}"),
            weight,
            slots,
            next_hop,
        };
        Sample {
            node: "lb1".to_owned(),
            agent: true,
            interfaces: vec!["eth0".to_owned()],
            generation: 3,
            vips: vec![crate::ctl::sample::Vip {
                source: VIP,
                name: "10.0.0.1:80/tcp".to_owned(),
                pool: "web".to_owned(),
            }],
            backends: vec![
                row(3, "idle", 0, 65_536, "unresolved"),
                row(1, "web", 1, 16_384, "resolved"),
                row(2, "web", 3, 49_152, "resolved"),
            ],
            slots: 131_072,
            tracked: 7,
            reading: Reading {
                at: Duration::from_secs(seconds),
                maps: 1,
                counters: counters
                    .map(|(source, packets)| (source, counter(packets)))
                    .into(),
            },
        }
    }

    /// After two looks, 2 s apart.
    pub(in crate::ctl::top) fn model() -> Model {
        let mut model = Model::new(sample(10, 1_000, 3_000, 5));
        model.take(Ok(sample(12, 3_000, 5_000, 25)));
        model
    }

    #[test]
    fn shares_stand_beside_weights() {
        let rows = model().backends();
        let shares: Vec<_> = rows
            .iter()
            .map(|r| (r.name.as_str(), r.share, r.by_weight, r.by_slots))
            .collect();
        assert_eq!(
            shares,
            [
                // Nothing was sent there, and weights that are all 0 have no shares.
                ("idle/be3", None, None, Some(1.0)),
                ("web/be1", Some(0.5), Some(0.25), Some(0.25)),
                ("web/be2", Some(0.5), Some(0.75), Some(0.75)),
            ]
        );
        assert_eq!(rows[1].rate.packets, 1_000.0);
        let vip = &model().vips()[0];
        assert_eq!(
            (vip.rate.packets, vip.rate.bits(), vip.share),
            (2_000.0, 1_600_000.0, Some(1.0))
        );
        let stops = model().stops();
        assert_eq!(
            (stops.len(), stops[0].name, stops[0].rate.packets, stops[0].total),
            (1, "not_vip", 10.0, 25)
        );
    }

    #[test]
    fn rows_are_sorted() {
        let mut model = model();
        model.take(Ok(sample(13, 3_100, 5_300, 25)));
        let names = |model: &Model| {
            model
                .backends()
                .into_iter()
                .map(|row| row.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&model), ["idle/be3", "web/be1", "web/be2"]);
        for sort in [Sort::Packets, Sort::Bits] {
            model.handle(Command::Sort);
            assert_eq!(
                (model.sort, names(&model)),
                (sort, ["web/be2", "web/be1", "idle/be3"].map(String::from).into())
            );
        }
        model.handle(Command::Sort);
        assert_eq!(model.sort, Sort::Name);
    }

    #[test]
    fn a_pause_freezes_what_is_shown_and_loses_nothing() {
        let mut model = model();
        model.handle(Command::Pause);
        model.take(Ok(sample(14, 9_000, 5_000, 25)));
        assert_eq!(model.backends()[1].rate.packets, 1_000.0);
        model.handle(Command::Pause);
        // Of one second, not of three.
        model.take(Ok(sample(15, 9_500, 5_000, 25)));
        assert_eq!(model.backends()[1].rate.packets, 500.0);
    }

    #[test]
    fn a_data_plane_that_goes_and_comes_back() {
        let mut model = model();
        model.take(Err("nothing is loaded".to_owned()));
        assert!(model.vips().is_empty() && model.backends().is_empty() && model.stops().is_empty());
        let mut renewed = sample(16, 400, 0, 0);
        renewed.reading.maps = 2;
        model.take(Ok(renewed));
        assert_eq!(model.backends()[1].rate.packets, 100.0);
        assert!(model.shown.as_ref().is_ok_and(|(_, rates)| rates.renewed));
    }

    #[test]
    fn keys_move_through_views_and_rows() {
        let mut model = model();
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(model.view);
            assert!(model.handle(Command::NextView));
        }
        assert_eq!((seen, model.view), (View::ALL.to_vec(), View::Overview));
        model.handle(Command::PreviousView);
        assert_eq!(model.view, View::Stops);
        model.handle(Command::Down(1_000));
        assert_eq!(model.offset, Stop::ALL.len() - 1);
        model.handle(Command::Up(2));
        assert_eq!(model.offset, Stop::ALL.len() - 3);
        model.handle(Command::NextView);
        assert_eq!(model.offset, 0);
        assert!(!model.handle(Command::Quit));
    }
}
