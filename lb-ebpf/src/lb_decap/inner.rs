//! Second stage: the inner header, checked and given the congestion mark of the outer one (RFC 6040).

use lb_common::be::{Be16, Be32};
use lb_common::header::{Ipv4, Ipv6, ethertype, proto};
use lb_common::stop::DecapStop;
use lb_common::{csum, ecn};
use lb_ebpf::packet::Packet;

use crate::outer::Outer;

/// Makes the inner packet ready to stand alone; its EtherType.
#[inline(always)]
pub fn settle(packet: &mut Packet, outer: &Outer) -> Result<Be16, DecapStop> {
    match outer.inner {
        proto::IPV4 => ipv4(packet, outer),
        _ => ipv6(packet, outer),
    }
}

#[inline(always)]
fn ipv4(packet: &mut Packet, outer: &Outer) -> Result<Be16, DecapStop> {
    let at = outer.link.len + outer.len;
    let ip: Ipv4 = packet.read(at).ok_or(DecapStop::Malformed)?;
    let (len, total) = (ip.header_len(), ip.total_len.get() as usize);
    if ip.version() != 4 || len < size_of::<Ipv4>() || total < len || at + total > outer.end {
        return Err(DecapStop::Malformed);
    }
    let mark = ecn::decapsulate(ip.tos, outer.ecn).ok_or(DecapStop::EcnDrop)?;
    if mark != ip.tos & 3 {
        let tos = ip.tos & !3 | mark;
        let word = |tos: u8| Be16::new(u16::from(ip.version_ihl) << 8 | u16::from(tos)).raw();
        let csum = csum::update(ip.csum, word(ip.tos), word(tos));
        packet
            .write(at, Ipv4 { tos, csum, ..ip })
            .ok_or(DecapStop::Malformed)?;
    }
    Ok(ethertype::IPV4)
}

#[inline(always)]
fn ipv6(packet: &mut Packet, outer: &Outer) -> Result<Be16, DecapStop> {
    let at = outer.link.len + outer.len;
    let ip: Ipv6 = packet.read(at).ok_or(DecapStop::Malformed)?;
    if ip.version() != 6 || at + size_of::<Ipv6>() + ip.payload_len.get() as usize > outer.end {
        return Err(DecapStop::Malformed);
    }
    let mark = ecn::decapsulate(ip.class(), outer.ecn).ok_or(DecapStop::EcnDrop)?;
    if mark != ip.class() & 3 {
        let word = ip.version_class_label.get() & !(3 << 20) | u32::from(mark) << 20;
        let version_class_label = Be32::new(word);
        packet
            .write(
                at,
                Ipv6 {
                    version_class_label,
                    ..ip
                },
            )
            .ok_or(DecapStop::Malformed)?;
    }
    Ok(ethertype::IPV6)
}
