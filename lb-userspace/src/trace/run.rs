//! What the program itself did with a frame.

use std::fmt;

use lb_common::stop::Stop;

/// A verdict of an XDP program (linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel couldn't do what the program asked for.
    Aborted,
    /// Nowhere.
    Drop,
    /// To the host's stack.
    Pass,
    /// Back by the interface that it came by.
    Tx,
    /// To another interface.
    Redirect,
}

impl Verdict {
    /// The verdict with this number.
    pub const fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Aborted,
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Tx,
            4 => Self::Redirect,
            _ => return None,
        })
    }

    /// As the kernel calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aborted => "XDP_ABORTED",
            Self::Drop => "XDP_DROP",
            Self::Pass => "XDP_PASS",
            Self::Tx => "XDP_TX",
            Self::Redirect => "XDP_REDIRECT",
        }
    }
}

/// What the program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its verdict.
    pub verdict: Verdict,
    /// The stop reason that it counted.
    pub stop: Option<Stop>,
    /// The frame as it left it.
    pub frame: Vec<u8>,
}

/// The program did something else than its stages say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disagreement {
    /// Another verdict, or for another reason.
    Decision {
        /// What the stages say.
        expected: Verdict,
        /// The stop reason of the stages.
        expected_stop: Option<Stop>,
        /// What the program did.
        verdict: Verdict,
        /// The stop reason that it counted.
        stop: Option<Stop>,
    },
    /// Other bytes.
    Bytes {
        /// What the stages say.
        expected: Vec<u8>,
        /// What the program left.
        left: Vec<u8>,
    },
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = |stop: &Option<Stop>| stop.map_or("no stop", |stop| stop.row().name);
        match self {
            Self::Decision {
                expected,
                expected_stop,
                verdict,
                stop,
            } => write!(
                f,
                "the stages say {} ({}), the program says {} ({})",
                expected.name(),
                reason(expected_stop),
                verdict.name(),
                reason(stop)
            ),
            Self::Bytes { expected, left } => {
                let first = expected.iter().zip(left).take_while(|(a, b)| a == b).count();
                write!(
                    f,
                    "the stages and the program agree on the verdict, not on the bytes: they differ from byte {first} on \
                     ({} bytes are expected, the program left {})",
                    expected.len(),
                    left.len()
                )
            }
        }
    }
}

impl std::error::Error for Disagreement {}
