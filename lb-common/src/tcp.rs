//! What a segment from the client means for its flow's entry.

/// FIN of the flags byte (RFC 9293 section 3.1).
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// ACK.
pub const ACK: u8 = 0x10;

/// How far behind the initial sequence number the first segment after a SYN may lie: (0, 64 Ki]. A first flight is
/// far shorter, and nobody who doesn't know the number gets a packet into it other than by 65,536 tries in 2^32.
pub const WINDOW: u32 = 1 << 16;

/// What a segment means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// SYN without ACK: a flow begins, or somebody wants it to look so.
    Syn,
    /// ACK and none of the others: the flow lives.
    Data,
    /// FIN with ACK: the client has sent all. It may go on receiving, so that its ACKs still come.
    Fin,
    /// RST with ACK: the flow is given up.
    Rst,
    /// RST alone: the answer of a client that knows no such connection to a segment of one (RFC 9293 section 3.10.7).
    Denial,
    /// What no client of a living flow sends: SYN with ACK (backscatter), or no ACK at all (a scan). It follows an
    /// entry and changes nothing.
    Stray,
}

/// A segment from the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// What it means.
    pub kind: Kind,
    /// Its sequence number, host order; of a SYN the initial one.
    pub seq: u32,
}

impl Segment {
    /// From the flags byte and the sequence number.
    #[inline(always)]
    pub const fn new(flags: u8, seq: u32) -> Self {
        Self {
            kind: kind(flags),
            seq,
        }
    }

    /// Whether this can be an early segment of the connection whose SYN had the number `isn`, or the answer to what that SYN has
    /// brought about: a server that still has an old connection of the same ports asks, and only the client's denial lets it go.
    #[inline(always)]
    pub const fn follows(self, isn: u32) -> bool {
        // 1..=WINDOW without a second comparison.
        self.seq.wrapping_sub(isn).wrapping_sub(1) < WINDOW || matches!(self.kind, Kind::Denial)
    }
}

/// What the flags mean.
#[inline(always)]
pub const fn kind(flags: u8) -> Kind {
    if flags & (RST | ACK) == RST {
        Kind::Denial
    } else if flags & RST != 0 {
        Kind::Rst
    } else if flags & (SYN | ACK) == SYN {
        Kind::Syn
    } else if flags & (SYN | ACK) != ACK {
        Kind::Stray
    } else if flags & FIN != 0 {
        Kind::Fin
    } else {
        Kind::Data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_flags() {
        const PSH: u8 = 0x08;
        const ECN: u8 = 0xc0;
        for (flags, expected) in [
            (SYN, Kind::Syn),
            (SYN | ECN, Kind::Syn),
            (SYN | FIN, Kind::Syn),
            (SYN | ACK, Kind::Stray),
            (SYN | ACK | FIN, Kind::Stray),
            (ACK, Kind::Data),
            (ACK | PSH, Kind::Data),
            (ACK | FIN, Kind::Fin),
            (ACK | FIN | PSH, Kind::Fin),
            (RST, Kind::Denial),
            (RST | ACK, Kind::Rst),
            (RST | SYN, Kind::Denial),
            (RST | FIN | ACK, Kind::Rst),
            (0, Kind::Stray),
            (FIN, Kind::Stray),
            (PSH | FIN | 0x20, Kind::Stray),
        ] {
            assert_eq!(kind(flags), expected, "{flags:#x}");
        }
    }

    #[test]
    fn the_window_behind_a_syn() {
        let isn = u32::MAX - 9;
        let follows = |by: u32| Segment::new(ACK, isn.wrapping_add(by)).follows(isn);
        assert!(follows(1) && follows(10) && follows(65_536));
        let far = isn.wrapping_add(1 << 31);
        assert!(Segment::new(RST, far).follows(isn) && !Segment::new(RST | ACK, far).follows(isn));
        assert!(!follows(0) && !follows(65_537) && !follows(u32::MAX) && !follows(1 << 31));
    }
}
