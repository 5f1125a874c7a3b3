//! What becomes of one frame, and why: the stages of `lb_xdp` one by one, by the functions that it runs itself.
//!
//! | file | holds |
//! |---|---|
//! | `frame`, `capture` | frames: built from a flow, out of hexadecimal digits, out of a capture file |
//! | `parse` | what is found in a frame |
//! | `stages` | the decision, with what each stage found |
//! | `known` | what the flow table says about the frame's flow |
//! | `run` | what the program itself did, and whether that is the same |
//!
//! All of it is pure; the program is run by `dataplane::trace`.

mod capture;
mod error;
mod frame;
mod known;
mod parse;
mod run;
mod stages;

pub use capture::{Captured, captured};
pub use error::Error;
pub use frame::{Flow, LONGEST, SHORTEST, build, check_length, from_hex};
pub use known::Known;
pub use parse::{Hidden, Ip, Link, Parsed};
pub use run::{Disagreement, Run, Verdict};
pub use stages::{Found, Match, Out, Outer, Stage, Steered, Tables, Trace, trace};
