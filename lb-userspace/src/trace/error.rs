//! Why there is no frame to trace.

use std::net::SocketAddr;

use pcap_file::{DataLink, PcapError};

use super::frame::{LONGEST, SHORTEST};

/// Why there is no frame to trace. Messages leave out their source.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "every variant's message says what it is")]
pub enum Error {
    #[error("{from} and {to} are of different families: no such flow exists")]
    Families { from: SocketAddr, to: SocketAddr },
    #[error("a packet with {0} bytes of payload does not exist: IP can't say its length")]
    Payload(usize),
    #[error("UDP has no SYN")]
    SynOfUdp,
    #[error(
        "a frame of {0} bytes: the kernel's test run takes {SHORTEST} to {LONGEST}, so this one can't be traced"
    )]
    Length(usize),
    #[error("{0:?} is no hexadecimal digit; a frame is written like 02 00 00 00 00 01 ...")]
    HexDigit(char),
    #[error("an odd number of hexadecimal digits: half a byte is missing")]
    HexHalf,
    #[error("neither pcap nor pcapng: its first bytes belong to no capture file")]
    NotACapture,
    #[error("its link type is {0:?} and not Ethernet: capture on one interface (tcpdump -i eth0 -w FILE)")]
    LinkType(DataLink),
    #[error("no packet {wanted}: the file has {have}")]
    NoPacket { wanted: usize, have: usize },
    #[error(
        "only {captured} bytes of the packet were captured, and what decides is up to byte {needed}: capture more (tcpdump -s 0)"
    )]
    Cut { captured: usize, needed: usize },
    #[error("the file can't be read from packet {number} on")]
    Broken { number: usize, source: PcapError },
}
