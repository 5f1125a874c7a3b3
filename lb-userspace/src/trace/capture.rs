//! Frames out of capture files: pcap and pcapng.

use std::io::{Chain, Cursor, Read};

use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError};

use super::Error;

/// First bytes of a pcap file: four numbers, in either byte order, say its kind.
const PCAP: [[u8; 4]; 4] = [
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0xa1, 0xb2, 0x3c, 0x4d],
    [0x4d, 0x3c, 0xb2, 0xa1],
];

/// First bytes of a pcapng file: a section header, the same in either byte order.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// A frame out of a capture file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The frame at its length on the wire; what was not captured is zero.
    pub frame: Vec<u8>,
    /// Bytes that were captured.
    pub captured: usize,
}

impl Captured {
    /// Whether all headers that decide were captured: link, IP, and a transport's flags.
    ///
    /// # Errors
    /// Where some were cut off: zeros would be judged in their place.
    pub fn check_headers(&self) -> Result<(), Error> {
        // An EtherType that was cut off is 0, for which no more is needed than was asked already.
        let byte = |at: usize| self.frame.get(at).copied().unwrap_or(0);
        let kind = |at: usize| u16::from_be_bytes([byte(at), byte(at + 1)]);
        let ip = if kind(12) == 0x8100 { 18 } else { 14 };
        let headers = match kind(ip - 2) {
            0x0800 => usize::from(byte(ip) & 0xf).max(5) * 4 + FLAGS,
            0x86dd => 40 + FLAGS,
            _ => 0,
        };
        let needed = (ip + headers).min(self.frame.len());
        if self.captured < needed {
            let captured = self.captured;
            return Err(Error::Cut { captured, needed });
        }
        Ok(())
    }
}

/// Where TCP's flags end.
const FLAGS: usize = 14;

/// Packet `number`, from 1, of a capture file.
///
/// # Errors
/// Where the file can't be read, holds something else, or holds fewer packets.
pub fn captured(mut file: impl Read, number: usize) -> Result<Captured, Error> {
    let mut magic = Vec::new();
    (&mut file)
        .take(4)
        .read_to_end(&mut magic)
        .map_err(|e| broken(1, PcapError::IoError(e)))?;
    let kind: [u8; 4] = magic.as_slice().try_into().map_err(|_| Error::NotACapture)?;
    let whole = Cursor::new(magic).chain(file);
    if PCAP.contains(&kind) {
        from_pcap(whole, number)
    } else if kind == PCAPNG {
        from_pcapng(whole, number)
    } else {
        Err(Error::NotACapture)
    }
}

type Whole<R> = Chain<Cursor<Vec<u8>>, R>;

fn from_pcap<R: Read>(file: Whole<R>, number: usize) -> Result<Captured, Error> {
    let mut reader = PcapReader::new(file).map_err(|e| broken(1, e))?;
    ethernet(reader.header().datalink)?;
    let mut have = 0;
    // The checked packets of this crate refuse one that was longer than the snapshot, as cut ones are.
    while let Some(packet) = reader.next_raw_packet() {
        have += 1;
        let packet = packet.map_err(|e| broken(have, e))?;
        if have == number {
            return Ok(whole(&packet.data, packet.orig_len));
        }
    }
    Err(Error::NoPacket { wanted: number, have })
}

fn from_pcapng<R: Read>(file: Whole<R>, number: usize) -> Result<Captured, Error> {
    let mut reader = PcapNgReader::new(file).map_err(|e| broken(1, e))?;
    let mut have = 0;
    while let Some(block) = reader.next_block() {
        let block = block.map_err(|e| broken(have + 1, e))?;
        let (data, length, interface) = match block {
            Block::EnhancedPacket(packet) => (packet.data, packet.original_len, packet.interface_id),
            // Its data is padded to whole words, and it always belongs to the first interface.
            Block::SimplePacket(packet) => (packet.data, packet.original_len, 0),
            _ => continue,
        };
        have += 1;
        if have == number {
            let captured = whole(&data, length);
            let interfaces = reader.interfaces();
            let interface = interfaces
                .get(interface as usize)
                .ok_or_else(|| broken(have, PcapError::InvalidInterfaceId(interface)))?;
            ethernet(interface.linktype)?;
            return Ok(captured);
        }
    }
    Err(Error::NoPacket { wanted: number, have })
}

fn ethernet(link: DataLink) -> Result<(), Error> {
    if link == DataLink::ETHERNET {
        Ok(())
    } else {
        Err(Error::LinkType(link))
    }
}

/// The frame as it was on the wire. No frame is longer than what an IP packet can be, so a wild length asks for no
/// memory: it is refused later, as too long.
fn whole(data: &[u8], length: u32) -> Captured {
    const MOST: usize = 1 << 17;
    let length = (length as usize).min(MOST);
    let mut frame = data[..data.len().min(length)].to_vec();
    let captured = frame.len();
    frame.resize(length, 0);
    Captured { frame, captured }
}

fn broken(number: usize, source: PcapError) -> Error {
    Error::Broken { number, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
    use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
    use pcap_file::pcapng::blocks::simple_packet::SimplePacketBlock;
    use pcap_file::{Endianness, TsResolution};
    use std::time::Duration;

    const FRAMES: [&[u8]; 2] = [&[1; 61], &[2; 18]];

    #[test]
    fn headers_that_were_cut_off_are_missed() {
        let mut frame = vec![0; 74];
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        for (captured, whole) in [(74, true), (68, true), (67, false), (40, false), (13, false)] {
            let packet = Captured {
                frame: frame.clone(),
                captured,
            };
            assert_eq!(packet.check_headers().is_ok(), whole, "{captured} bytes");
        }
        frame[12..15].copy_from_slice(&[0x08, 0x00, 0x46]);
        let cut = |captured| Captured {
            frame: frame.clone(),
            captured,
        };
        assert!(cut(52).check_headers().is_ok() && cut(51).check_headers().is_err());
    }

    fn pcap(endianness: Endianness, datalink: DataLink) -> Vec<u8> {
        let header = PcapHeader {
            endianness,
            datalink,
            ts_resolution: TsResolution::NanoSecond,
            ..PcapHeader::default()
        };
        let mut writer = PcapWriter::with_header(Vec::new(), header).expect("a header");
        for frame in FRAMES {
            let packet = PcapPacket::new(Duration::ZERO, frame.len() as u32, frame);
            writer.write_packet(&packet).expect("a packet");
        }
        writer.into_writer()
    }

    fn pcapng(endianness: Endianness, linktype: DataLink) -> Vec<u8> {
        let mut writer = PcapNgWriter::with_endianness(Vec::new(), endianness).expect("a header");
        let interface = InterfaceDescriptionBlock::new(linktype, 0);
        writer.write_pcapng_block(interface).expect("an interface");
        let enhanced = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::ZERO,
            original_len: 61,
            data: FRAMES[0].into(),
            options: Vec::new(),
        };
        writer.write_pcapng_block(enhanced).expect("a packet");
        let simple = SimplePacketBlock {
            original_len: 18,
            data: FRAMES[1].into(),
        };
        writer.write_pcapng_block(simple).expect("a packet");
        writer.into_inner()
    }

    #[test]
    fn packets_of_both_formats_in_both_byte_orders() {
        for order in [Endianness::Big, Endianness::Little] {
            for file in [pcap(order, DataLink::ETHERNET), pcapng(order, DataLink::ETHERNET)] {
                for (frame, number) in FRAMES.into_iter().zip(1..) {
                    let want = Captured {
                        frame: frame.to_vec(),
                        captured: frame.len(),
                    };
                    assert_eq!(captured(file.as_slice(), number).expect("a packet"), want);
                }
                for wanted in [0, 3] {
                    let error = captured(file.as_slice(), wanted).expect_err("no packet");
                    assert_eq!(error.to_string(), format!("no packet {wanted}: the file has 2"));
                }
            }
        }
    }

    #[test]
    fn what_was_not_captured_is_zero() {
        let header = PcapHeader {
            snaplen: 20,
            ..PcapHeader::default()
        };
        let mut writer = PcapWriter::with_header(Vec::new(), header).expect("a header");
        let packet = PcapPacket::new(Duration::ZERO, 1514, &[7; 20]);
        writer.write_packet(&packet).expect("a packet");
        let got = captured(writer.into_writer().as_slice(), 1).expect("a packet");
        assert_eq!((got.captured, got.frame.len()), (20, 1514));
        assert_eq!((got.frame[19], got.frame[20]), (7, 0));
        assert_eq!(whole(&[1, 2, 3], u32::MAX).frame.len(), 1 << 17);
    }

    #[test]
    fn odd_files() {
        for file in [&b""[..], b"\x0a\x0d", b"#!/bin/sh\n", &[0; 64]] {
            assert!(matches!(captured(file, 1), Err(Error::NotACapture)), "{file:?}");
        }
        for file in [
            pcap(Endianness::Big, DataLink::LINUX_SLL),
            pcapng(Endianness::Little, DataLink::RAW),
        ] {
            assert!(matches!(captured(file.as_slice(), 1), Err(Error::LinkType(_))));
        }
        for file in [
            pcap(Endianness::Big, DataLink::ETHERNET),
            pcapng(Endianness::Big, DataLink::ETHERNET),
        ] {
            let cut = &file[..file.len() - 3];
            assert!(captured(cut, 1).is_ok());
            assert!(matches!(captured(cut, 2), Err(Error::Broken { number: 2, .. })));
            assert!(matches!(
                captured(&file[..10], 1),
                Err(Error::Broken { number: 1, .. })
            ));
        }
    }
}
