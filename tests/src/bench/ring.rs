//! `bench ring`: how long a ring takes.

use std::hint::black_box;
use std::time::Instant;

use lb_common::maglev::{self, Cursor, Member};
use lb_common::slot::SLOTS;
use lb_common::{id, overlay};
use lb_userspace::ctl::out;
use serde::Serialize;

/// Numbers of backends.
const SIZES: [usize; 3] = [10, 100, 1000];
/// One backend in so many has no next hop when the overlay for many is measured.
const DOWN: usize = 10;

/// All results.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How often each was done.
    pub rounds: u32,
    /// By number of backends.
    pub rings: Vec<RingResult>,
}

/// Milliseconds for one ring of 65,536 slots.
#[derive(Clone, Debug, Serialize)]
pub struct RingResult {
    /// Backends, with weights 1, 2, 3, 1, ...
    pub backends: usize,
    /// The ring itself ([`maglev::fill`]).
    pub build: Times,
    /// Stand-ins for one backend, of middle weight ([`overlay::apply`]).
    pub overlay_one: Times,
    /// Stand-ins for one backend in ten.
    pub overlay: Times,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    /// The best round.
    pub min_ms: f64,
    /// The round in the middle.
    pub median_ms: f64,
    /// The worst.
    pub max_ms: f64,
}

/// Builds every ring `rounds` times, at least once.
pub fn measure(rounds: u32) -> Report {
    Report {
        rounds,
        rings: SIZES.iter().map(|&n| measure_ring(n, rounds)).collect(),
    }
}

fn measure_ring(backends: usize, rounds: u32) -> RingResult {
    let members: Vec<Member> = (0..backends)
        .map(|i| Member {
            id: id::stable("bench", &format!("be{i}")),
            weight: 1 + (i % 3) as u16,
        })
        .collect();
    let one: Vec<bool> = (0..backends).map(|i| i != 1).collect();
    let tenth: Vec<bool> = (0..backends).map(|i| i % DOWN != 0).collect();
    let mut scratch = vec![Cursor::default(); backends];
    let (mut home, mut slots) = (Box::new([maglev::NONE; SLOTS]), Box::new([maglev::NONE; SLOTS]));
    let build = times(rounds, || {
        maglev::fill(black_box(&members), &mut scratch, &mut home).expect("identities differ");
    });
    let mut overlay = |up: &[bool]| {
        times(rounds, || {
            overlay::apply(black_box(&home), &members, up, &mut slots);
            black_box(&slots);
        })
    };
    let (overlay_one, overlay) = (overlay(&one), overlay(&tenth));
    RingResult {
        backends,
        build,
        overlay_one,
        overlay,
    }
}

fn times(rounds: u32, mut work: impl FnMut()) -> Times {
    let mut rounds: Vec<f64> = (0..rounds.max(1))
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    let micro = |ms: f64| (ms * 1000.0).round() / 1000.0;
    Times {
        min_ms: micro(rounds[0]),
        median_ms: micro(rounds[rounds.len() / 2]),
        max_ms: micro(rounds[rounds.len() - 1]),
    }
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let row = |backends: usize, what: &str, times: &Times| {
            let ms = |value: f64| format!("{value:.2}");
            [
                backends.to_string(),
                what.to_owned(),
                ms(times.min_ms),
                ms(times.median_ms),
                ms(times.max_ms),
            ]
        };
        let rows = self.rings.iter().flat_map(|ring| {
            [
                row(ring.backends, "build", &ring.build),
                row(ring.backends, "overlay, 1 down", &ring.overlay_one),
                row(ring.backends, "overlay, 1 in 10 down", &ring.overlay),
            ]
        });
        let columns = [">BACKENDS", "WHAT", ">MIN MS", ">MEDIAN", ">MAX"];
        format!("{}\n\n{} rounds.", out::table(columns, rows), self.rounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_measured() {
        let report = measure(2);
        let sizes: Vec<usize> = report.rings.iter().map(|ring| ring.backends).collect();
        assert_eq!(sizes, SIZES);
        for ring in &report.rings {
            for times in [ring.build, ring.overlay_one, ring.overlay] {
                assert!(
                    0.0 < times.min_ms && times.min_ms <= times.median_ms && times.median_ms <= times.max_ms
                );
            }
        }
    }
}
