//! ICMP errors as `lbctl doctor` hears them, from whoever sends some.

use std::net::{IpAddr, Ipv6Addr};

use lb_userspace::doctor::icmp::{read_v4, read_v6};

/// Any bytes are an error about one of our packets or none, and it can be said in words.
///
/// # Panics
/// Where that is not so.
pub fn icmp(bytes: &[u8]) {
    let from = IpAddr::V6(Ipv6Addr::LOCALHOST);
    for notice in [read_v4(bytes), read_v6(from, bytes)].into_iter().flatten() {
        assert!(!notice.to_string().is_empty());
    }
}
