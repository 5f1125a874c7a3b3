//! Reference model of the XDP programs: what must become of a frame, as plain functions over bytes.
//!
//! Parsing is written from the RFCs and shares no line with `lb-ebpf`. The functions of `lb-common` that are the
//! contract between nodes (hash, slot, pick, values of the outer header) are the same ones.

pub mod ip;
pub mod link;
pub mod flow;
pub mod balance;
pub mod decap;

/// A frame as a driver hands it to a program.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The frame, Ethernet header first.
    pub frame: &'a [u8],
    /// Index of the interface that it came in by.
    pub ingress: u32,
    /// Bytes that may be put in front of it.
    pub headroom: usize,
}

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// Nowhere.
    Drop,
    /// To the host's stack.
    Pass,
    /// Back by the interface that it came by.
    Tx,
    /// To another interface.
    Redirect,
}
