//! One turn: what was seen, and whether it is a measurement.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb_common::stop::Stop;

use super::path::Lane;

/// More than this share lost, and the rate says more about rings than about programs.
const MOST_LOST: f64 = 0.1;

/// Frames of one turn, as each place on the way counts them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// By the generator.
    pub sent: u64,
    /// By `lb_xdp`, as forwarded; the floor counts nothing.
    pub forwarded: u64,
    /// By `lb_xdp`, as stopped, and why.
    pub stopped: Vec<(Stop, u64)>,
    /// By the sink, IP in IP.
    pub encapsulated: u64,
    /// By the sink, as the generator made them.
    pub plain: u64,
    /// By the sink, anything else.
    pub other: u64,
}

impl Seen {
    /// Frames that came back to the sink.
    pub const fn arrived(&self) -> u64 {
        self.encapsulated + self.plain
    }

    /// Frames that did not. (A turn with any that were stopped is none, so a link has dropped these.)
    pub const fn lost(&self) -> u64 {
        self.sent - self.arrived()
    }

    /// Whether all that arrived is what `lane` makes of it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, lane: Lane) -> Result<()> {
        let stopped: Vec<String> = self
            .stopped
            .iter()
            .map(|(stop, packets)| format!("{packets} {}", stop.row().name))
            .collect();
        ensure!(
            stopped.is_empty(),
            "the node stopped frames: {}",
            stopped.join(", ")
        );
        ensure!(self.other == 0, "{} frames arrived that nobody sent", self.other);
        let (wrong, what) = match lane {
            Lane::Target => (self.plain, "without an outer header"),
            Lane::Floor => (self.encapsulated, "with an outer header"),
        };
        ensure!(wrong == 0, "{wrong} of {} frames arrived {what}", self.sent);
        ensure!(
            self.arrived() <= self.sent,
            "{} frames arrived, {} were sent",
            self.arrived(),
            self.sent
        );
        ensure!(
            lane == Lane::Floor || (self.encapsulated <= self.forwarded && self.forwarded <= self.sent),
            "{} frames were sent, {} forwarded, {} arrived",
            self.sent,
            self.forwarded,
            self.encapsulated
        );
        ensure!(
            self.lost() as f64 <= MOST_LOST * self.sent as f64,
            "{} of {} frames were lost",
            self.lost(),
            self.sent
        );
        Ok(())
    }
}

/// A turn that is a measurement.
#[derive(Clone, Debug)]
pub struct Turn {
    /// What was counted.
    pub seen: Seen,
    /// Frames that arrived on another CPU than the one that counts.
    pub elsewhere: u64,
    /// Time on the CPU: the generator's thread with all softirqs that ran in it, and the softirq thread.
    pub busy: Duration,
}

impl Turn {
    /// Frames that arrived per second on the CPU.
    pub fn rate(&self) -> f64 {
        self.seen.arrived() as f64 / self.busy.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Seen {
        Seen {
            sent: 1000,
            forwarded: 995,
            encapsulated: 990,
            ..Seen::default()
        }
    }

    #[test]
    fn a_few_lost_frames_are_told_and_no_error() {
        let seen = good();
        seen.check(Lane::Target).expect("encapsulated");
        assert_eq!(seen.lost(), 10);
    }

    #[test]
    fn a_round_of_anything_else_is_an_error() {
        type Spoil = fn(&mut Seen);
        let spoils: [(Spoil, &str); 6] = [
            (|s| s.stopped.push((Stop::NotVip, 5)), "stopped"),
            (|s| s.plain = 1, "without an outer header"),
            (|s| s.other = 1, "nobody sent"),
            (|s| s.forwarded = 989, "forwarded"),
            (|s| s.encapsulated = 1001, "were sent"),
            (|s| s.encapsulated = 899, "lost"),
        ];
        for (spoil, wanted) in spoils {
            let mut seen = good();
            spoil(&mut seen);
            let error = seen.check(Lane::Target).expect_err(wanted).to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(
            good().check(Lane::Floor).is_err(),
            "the floor encapsulates nothing"
        );
        let nothing = Seen {
            sent: 10,
            ..Seen::default()
        };
        assert!(nothing.check(Lane::Floor).is_err(), "nothing arrived");
    }
}
