//! Second stage: is this for a VIP?

use lb_common::be::Be16;
use lb_common::header::proto;
use lb_common::stop::Stop;
use lb_common::vip::{Key, Value};

use crate::maps;
use crate::parse::{Headers, Kind};

/// The VIP that a packet is for: its own port first, then the VIP for every port.
#[inline(always)]
pub fn find(headers: &Headers) -> Result<Value, Stop> {
    let tuple = &headers.tuple;
    match headers.kind {
        Kind::Flow => {}
        Kind::Fragment => return Err(without_ports(headers, Stop::Fragment)),
        Kind::Extension => return Err(without_ports(headers, Stop::Extension)),
    }
    let key = Key::new(tuple.dst, tuple.dport, tuple.proto);
    // Port 0 can't be configured as a port, so a packet to it finds the address's mark at once.
    let value = match maps::vip(&key) {
        Some(value) => value,
        None => maps::vip(&key.any_port()).ok_or(Stop::NotVip)?,
    };
    if value.is_served() {
        Ok(value)
    } else {
        Err(Stop::Unserved)
    }
}

/// `stop` for a VIP address, else not ours. Every VIP address has a mark for TCP.
#[inline(always)]
fn without_ports(headers: &Headers, stop: Stop) -> Stop {
    match maps::vip(&Key::new(headers.tuple.dst, Be16::new(0), proto::TCP)) {
        Some(_) => stop,
        None => Stop::NotVip,
    }
}
