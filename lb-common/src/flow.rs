//! The flow table: keys, entries, and the records of what the program did to them.
//!
//! **Invariant.** An entry's backend never changes; another backend is another entry.

use crate::addr::Addr;
use crate::be::{Be16, wire};
use crate::tick::{self, Tick};
use crate::tuple::Tuple;

wire! {
    /// Key of the flow maps, 40 bytes: the whole 5-tuple as the client sends it, so that two VIPs behind one
    /// every-port address never share an entry.
    #[derive(Default, Hash, PartialOrd, Ord)]
    #[repr(C)]
    pub struct Key {
        /// The client.
        pub src: Addr,
        /// The VIP.
        pub dst: Addr,
        /// The client's port.
        pub sport: Be16,
        /// The VIP's port.
        pub dport: Be16,
        /// IP protocol number.
        pub proto: u8,
        /// Zero.
        pub pad: [u8; 3],
    }
}

impl Key {
    /// The key of a flow.
    #[inline(always)]
    pub const fn new(tuple: &Tuple) -> Self {
        Self {
            src: tuple.src,
            dst: tuple.dst,
            sport: tuple.sport,
            dport: tuple.dport,
            proto: tuple.proto,
            pad: [0; 3],
        }
    }

    /// The flow, for its hash.
    #[inline(always)]
    pub const fn tuple(&self) -> Tuple {
        Tuple {
            src: self.src,
            dst: self.dst,
            sport: self.sport,
            dport: self.dport,
            proto: self.proto,
        }
    }
}

/// State: a SYN was seen (UDP: one packet).
pub const PROBATION: u8 = 1;
/// State: the client answered.
pub const CONFIRMED: u8 = 2;
/// State: FIN or RST was seen; kept for late segments, which otherwise would count as uses of `origin`.
pub const CLOSED: u8 = 3;

/// The owner of entries that were made or taken over here.
pub const OWN: u8 = 0;

wire! {
    /// Value of the flow maps, 16 bytes. A default one is no entry: it has no state.
    #[derive(Default, Hash)]
    #[repr(C)]
    pub struct Entry {
        /// The initial sequence number of the SYN, host order; 0 for UDP. Meaningful in probation.
        pub isn: u32,
        /// When the state began.
        pub since: Tick,
        /// When a packet of the flow last came, as exact as [`TOUCH`].
        pub last: Tick,
        /// Index of the backend.
        pub backend: u16,
        /// [`PROBATION`], [`CONFIRMED`], [`CLOSED`].
        pub state: u8,
        /// [`OWN`], or the index of the member that announced this replica.
        pub owner: u8,
    }
}

/// `last` is written when it is older than this: one second.
pub const TOUCH: u32 = tick::seconds(1);
/// An entry in probation is not replaced by one with another sequence number for five seconds: a handshake, and the
/// time for which the insert budget keeps it.
pub const HOLD: u32 = tick::seconds(5);
/// A closed flow whose client still sends a second later lives: it is half closed, or the RST was forged.
pub const REOPEN: u32 = tick::seconds(1);
/// A closed entry stays for a minute after its last segment, or for the idle timeout where that is shorter.
pub const CLOSED_STAYS: u32 = tick::seconds(60);

impl Entry {
    /// A flow's first packet.
    #[inline(always)]
    pub const fn probation(backend: u16, isn: u32, now: Tick) -> Self {
        Self {
            isn,
            since: now,
            last: now,
            backend,
            state: PROBATION,
            owner: OWN,
        }
    }

    /// The same flow in another state from now on, and ours.
    #[inline(always)]
    const fn become_state(self, state: u8, now: Tick) -> Self {
        Self {
            since: now,
            last: now,
            state,
            owner: OWN,
            ..self
        }
    }

    /// The client answered, or still sends long after it closed.
    #[inline(always)]
    pub const fn confirmed(self, now: Tick) -> Self {
        self.become_state(CONFIRMED, now)
    }

    /// FIN or RST came.
    #[inline(always)]
    pub const fn closed(self, now: Tick) -> Self {
        self.become_state(CLOSED, now)
    }

    /// A packet came; ours from now on.
    #[inline(always)]
    pub const fn used(self, now: Tick) -> Self {
        Self {
            last: now,
            owner: OWN,
            ..self
        }
    }

    /// Whether a SYN with another sequence number has to leave this entry alone.
    #[inline(always)]
    pub const fn is_held(&self, now: Tick) -> bool {
        self.state == PROBATION && now.since(self.since) < HOLD
    }

    /// Whether a peer's record displaces this entry, which is held beside it (own) or instead of it (replica). The
    /// newest announcement counts, but a SYN displaces neither a flow that answered, nor another handshake
    /// that may be under way, unless the entry's owner itself has forgotten it: it is the announcer, or gone
    /// (`orphan`). Where it says the same backend there is nothing to gain: a forged one would make it forgettable.
    pub const fn yields_to(&self, record: &Self, orphan: bool, now: Tick) -> bool {
        if record.state != PROBATION {
            return true;
        }
        let is_forgotten = self.owner != OWN && (orphan || self.owner == record.owner);
        match self.state {
            PROBATION => is_forgotten || self.isn == record.isn || !self.is_held(now),
            _ => is_forgotten && self.backend != record.backend,
        }
    }

    /// Whether the sweep deletes this entry; `idle` is its VIP's idle timeout, ticks.
    pub const fn is_expired(&self, idle: u32, now: Tick) -> bool {
        let unused = now.since(self.last);
        match self.state {
            PROBATION => unused >= HOLD,
            // The last use may be that much younger than it says.
            CONFIRMED => unused >= idle + TOUCH,
            _ => unused >= CLOSED_STAYS || unused >= idle + TOUCH,
        }
    }
}

/// Kind of event: a SYN (UDP: a first packet) was entered in probation.
pub const ENTERED: u8 = 1;
/// Kind of event: out of probation, or taken over from a peer.
pub const CONFIRMED_HERE: u8 = 2;
/// Kind of event: an own entry closed or opened again.
pub const CHANGED: u8 = 3;

wire! {
    /// Record in the ring buffer from the program to the agent, 64 bytes.
    #[derive(Default)]
    #[repr(C)]
    pub struct Event {
        /// The flow.
        pub key: Key,
        /// Its entry as it was written.
        pub entry: Entry,
        /// The slot in the flat array of all rings ([`crate::slot::index`]).
        pub slot: u32,
        /// [`ENTERED`], [`CONFIRMED_HERE`], [`CHANGED`].
        pub kind: u8,
        /// Zero.
        pub pad: [u8; 3],
    }
}

/// Whether a table is so full (90 %) that new flows count as refused. What is in probation already still fits.
#[inline(always)]
pub const fn is_full(entries: u32, capacity: u32) -> bool {
    entries as u64 * 10 >= capacity as u64 * 9
}

const _: () = assert!(size_of::<Key>() == 40 && align_of::<Key>() == 4);
const _: () = assert!(size_of::<Entry>() == 16 && align_of::<Entry>() == 4);
const _: () = assert!(size_of::<Event>() == 64);

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    fn tuple(dport: u16) -> Tuple {
        let ip = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        Tuple {
            src: ip("10.0.0.1"),
            dst: ip("2001:db8::1"),
            sport: Be16::new(1000),
            dport: Be16::new(dport),
            proto: 6,
        }
    }

    #[test]
    fn keys_hold_the_whole_tuple() {
        let (http, https) = (tuple(80), tuple(443));
        assert_ne!(
            Key::new(&http),
            Key::new(&https),
            "one client port to two ports of an address"
        );
        assert_ne!(Key::new(&http), Key::new(&Tuple { proto: 17, ..http }));
        assert_eq!(Key::new(&https).tuple(), https);
    }

    #[test]
    fn states_and_what_they_keep() {
        let (t0, t1) = (Tick(100), Tick(200));
        let syn = Entry::probation(7, 99, t0);
        let open = syn.confirmed(t1);
        assert_eq!(
            (open.backend, open.state, open.since, open.last),
            (7, CONFIRMED, t1, t1)
        );
        let closed = open.closed(Tick(300));
        assert_eq!(
            (closed.backend, closed.state, closed.since),
            (7, CLOSED, Tick(300))
        );
        let late = closed.used(Tick(400));
        assert_eq!(
            (late.state, late.since, late.last),
            (CLOSED, Tick(300), Tick(400))
        );
        let replica = Entry { owner: 3, ..open };
        assert_eq!((replica.used(t1).owner, replica.confirmed(t1).owner), (OWN, OWN));
    }

    #[test]
    fn entries_expire_by_state() {
        let idle = tick::seconds(900);
        let t0 = Tick(u32::MAX - 5);
        let syn = Entry::probation(7, 99, t0);
        for (entry, life) in [
            (syn, HOLD),
            (syn.confirmed(t0), idle + TOUCH),
            (syn.closed(t0), CLOSED_STAYS),
        ] {
            assert!(!entry.is_expired(idle, t0.after(life - 1)), "{entry:?}");
            assert!(entry.is_expired(idle, t0.after(life)), "{entry:?}");
        }
        let late = syn.closed(t0).used(t0.after(50));
        assert!(
            !late.is_expired(idle, t0.after(CLOSED_STAYS)),
            "a minute after the last segment"
        );
    }

    #[test]
    fn only_young_probation_is_held() {
        let syn = Entry::probation(7, 99, Tick(0));
        assert!(syn.is_held(Tick(HOLD - 1)) && !syn.is_held(Tick(HOLD)));
        assert!(!syn.confirmed(Tick(0)).is_held(Tick(0)));
    }

    #[test]
    fn a_record_of_a_syn_displaces_little() {
        let now = Tick(10);
        let syn = |backend, isn, owner| Entry {
            owner,
            ..Entry::probation(backend, isn, now)
        };
        let open = |owner| Entry {
            owner,
            ..syn(7, 1, owner).confirmed(now)
        };
        let closed = |owner| Entry {
            owner,
            ..open(owner).closed(now)
        };
        let other = |owner| syn(8, 2, owner);
        for (held, record, orphan, expected) in [
            (open(OWN), open(2), false, true),
            (open(OWN), closed(2), false, true),
            (syn(7, 1, OWN), open(2), false, true),
            (open(OWN), other(2), false, false),
            (open(3), other(2), false, false),
            (open(2), other(2), false, true),
            (open(3), other(2), true, true),
            (open(OWN), other(2), true, false),
            (open(2), syn(7, 2, 2), false, false),
            (closed(OWN), other(2), false, false),
            (closed(2), other(2), false, true),
            (closed(OWN), syn(7, 2, 2), false, false),
            (syn(7, 1, OWN), syn(7, 1, 2), false, true),
            (syn(7, 1, OWN), other(2), true, false),
            (syn(7, 1, 3), other(2), false, false),
            (syn(7, 1, 3), other(2), true, true),
            (syn(7, 1, 2), other(2), false, true),
        ] {
            let yields = held.yields_to(&record, orphan, now);
            assert_eq!(yields, expected, "{held:?} {record:?} {orphan}");
        }
        assert!(syn(7, 1, 3).yields_to(&other(2), false, now.after(HOLD)));
    }

    #[test]
    fn full_at_nine_tenths() {
        assert!(!is_full(89, 100) && is_full(90, 100) && is_full(u32::MAX, u32::MAX));
    }
}
