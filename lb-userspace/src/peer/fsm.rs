//! Whether one peer lives.
//!
//! ```text
//! Unknown ─ heard ─▶ Joining | Alive ─ silent for half of dead_after ─▶ Suspect ─ dead_after ─▶ Dead
//!    └───────── dead_after ──────────────────────────────────────────────────────────────────────┘
//! ```
//! A heartbeat leads from everywhere to `Joining` or `Alive`, as it says; the end of the session to `Dead`.

use std::time::Duration;

use super::facts::Phase;
use crate::health::Mono;

/// What is known of a peer's life.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub enum Life {
    /// Never heard, since we started.
    #[default]
    Unknown,
    /// It lives, and does not take part yet.
    Joining,
    /// It lives.
    Alive,
    /// Silent for half of `dead_after`.
    Suspect,
    /// Silent for `dead_after`, or its session has ended.
    Dead,
}

impl Life {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Unknown,
        Self::Joining,
        Self::Alive,
        Self::Suspect,
        Self::Dead,
    ];

    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Joining => "joining",
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
        }
    }

    /// Heard lately.
    pub const fn is_heard(self) -> bool {
        matches!(self, Self::Joining | Self::Alive)
    }
}

/// The machine of one peer. Each handler says whether the state has changed.
#[derive(Clone, Debug)]
pub struct Liveness {
    life: Life,
    since: Mono,
    /// When it was heard last, or when we started.
    heard: Mono,
    dead_after: Duration,
}

impl Liveness {
    /// Never heard.
    pub const fn new(dead_after: Duration, now: Mono) -> Self {
        Self {
            life: Life::Unknown,
            since: now,
            heard: now,
            dead_after,
        }
    }

    /// The state.
    pub const fn life(&self) -> Life {
        self.life
    }

    /// Since when it is in that state.
    pub const fn since(&self) -> Mono {
        self.since
    }

    /// A heartbeat has come.
    pub fn handle(&mut self, phase: Phase, now: Mono) -> bool {
        self.heard = self.heard.max(now);
        self.enter(
            if phase == Phase::Joining {
                Life::Joining
            } else {
                Life::Alive
            },
            now,
        )
    }

    /// Its session has ended.
    pub fn handle_end(&mut self, now: Mono) -> bool {
        self.life != Life::Unknown && self.enter(Life::Dead, now)
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Mono) -> bool {
        let silent = now.since(self.heard);
        match self.life {
            Life::Dead => false,
            _ if silent >= self.dead_after => self.enter(Life::Dead, now),
            Life::Joining | Life::Alive if silent >= self.dead_after / 2 => self.enter(Life::Suspect, now),
            _ => false,
        }
    }

    /// When [`Liveness::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Mono> {
        match self.life {
            Life::Dead => None,
            Life::Joining | Life::Alive => Some(self.heard + self.dead_after / 2),
            Life::Unknown | Life::Suspect => Some(self.heard + self.dead_after),
        }
    }

    fn enter(&mut self, life: Life, now: Mono) -> bool {
        let changed = self.life != life;
        if changed {
            (self.life, self.since) = (life, now);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEAD_AFTER: Duration = Duration::from_millis(50);

    fn at(ms: u64) -> Mono {
        Mono::from_unix(Duration::from_millis(ms))
    }

    #[test]
    fn every_transition() {
        let new = || Liveness::new(DEAD_AFTER, at(0));
        let heard = |phase| {
            let mut peer = new();
            peer.handle(phase, at(10));
            peer
        };
        let later = |mut peer: Liveness, ms| {
            peer.handle_timeout(at(ms));
            peer
        };
        for (peer, want, next) in [
            (new(), Life::Unknown, Some(50)),
            (later(new(), 49), Life::Unknown, Some(50)),
            (later(new(), 50), Life::Dead, None),
            (heard(Phase::Joining), Life::Joining, Some(35)),
            (heard(Phase::Ready), Life::Alive, Some(35)),
            (heard(Phase::Leaving), Life::Alive, Some(35)),
            (later(heard(Phase::Ready), 34), Life::Alive, Some(35)),
            (later(heard(Phase::Ready), 35), Life::Suspect, Some(60)),
            (later(heard(Phase::Joining), 35), Life::Suspect, Some(60)),
            (later(later(heard(Phase::Ready), 35), 59), Life::Suspect, Some(60)),
            (later(later(heard(Phase::Ready), 35), 60), Life::Dead, None),
            (later(heard(Phase::Ready), 60), Life::Dead, None),
        ] {
            assert_eq!(
                (peer.life(), peer.poll_timeout()),
                (want, next.map(at)),
                "{peer:?}"
            );
            let mut back = peer.clone();
            let changed = back.handle(Phase::Ready, at(100));
            assert_eq!((back.life(), changed), (Life::Alive, want != Life::Alive));
            let mut ended = peer.clone();
            ended.handle_end(at(100));
            let end = if want == Life::Unknown {
                Life::Unknown
            } else {
                Life::Dead
            };
            assert_eq!(ended.life(), end);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Heard(bool),
        Ended,
    }

    proptest! {
        /// Driven at its own timeouts, a peer is heard, suspect or dead by its silence alone.
        #[test]
        fn silence_decides(steps in prop::collection::vec(prop_oneof![
            (0u64..80).prop_map(Step::Wait), any::<bool>().prop_map(Step::Heard), Just(Step::Ended)
        ], 0..60)) {
            let (mut peer, mut now, mut heard) = (Liveness::new(DEAD_AFTER, at(0)), 0, None);
            for step in steps {
                match step {
                    Step::Wait(ms) => {
                        let end = now + ms;
                        while let Some(due) = peer.poll_timeout().filter(|due| *due <= at(end)) {
                            prop_assert!(peer.handle_timeout(due), "a timeout changes something: {:?}", peer);
                        }
                        now = end;
                    }
                    Step::Heard(ready) => {
                        peer.handle(if ready { Phase::Ready } else { Phase::Joining }, at(now));
                        heard = Some((now, ready));
                    }
                    Step::Ended => {
                        peer.handle_end(at(now));
                        if heard.is_some() { heard = Some((0, false)); }
                    }
                }
                let want = match heard {
                    None if now >= 50 => Life::Dead,
                    None => Life::Unknown,
                    Some((at, _)) if peer.life() == Life::Dead => { prop_assert!(at == 0 || now - at >= 50); Life::Dead }
                    Some((at, _)) if now - at >= 50 => Life::Dead,
                    Some((at, _)) if now - at >= 25 => Life::Suspect,
                    Some((_, true)) => Life::Alive,
                    Some((_, false)) => Life::Joining,
                };
                prop_assert_eq!(peer.life(), want);
                prop_assert!(peer.since() <= at(now));
            }
        }
    }
}
