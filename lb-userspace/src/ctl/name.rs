//! How keys and figures are written.

use std::net::IpAddr;

use lb_common::header::proto;
use lb_common::stop::Action;
use lb_common::vip;

/// A VIP as people write it: `10.0.0.1:80/tcp`, `any` for every port.
pub(super) fn vip(key: &vip::Key) -> String {
    let address = match IpAddr::from(key.addr) {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    format!("{address}:{}/{}", port(key), protocol(key))
}

/// A VIP's port, `any` for every port.
pub(super) fn port(key: &vip::Key) -> String {
    match key.port.get() {
        0 => "any".to_owned(),
        port => port.to_string(),
    }
}

/// A VIP's protocol.
pub(super) fn protocol(key: &vip::Key) -> &'static str {
    match key.proto {
        proto::TCP => "tcp",
        proto::UDP => "udp",
        _ => "?",
    }
}

/// A link-layer address.
pub(super) fn mac(bytes: &[u8; 6]) -> String {
    let [a, b, c, d, e, f] = bytes;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// What becomes of a packet that stops, in a word.
pub(super) fn action(action: Action) -> &'static str {
    match action {
        Action::Pass => "pass",
        Action::Drop => "drop",
    }
}

/// A figure with three digits that count: `0`, `0.25`, `12.3`, `4.56 k`, `789 M`.
pub(super) fn figure(value: f64) -> String {
    const UNITS: [&str; 6] = ["", " k", " M", " G", " T", " P"];
    let (mut value, mut unit) = (value, 0);
    // What would be rounded to 1000 is 1 of the next unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        v if v < 0.005 => return "0".to_owned(),
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::figure;

    #[test]
    fn figures_have_three_digits() {
        for (value, want) in [
            (0.0, "0"),
            (0.004, "0"),
            (0.25, "0.25"),
            (1.0, "1.00"),
            (9.996, "10.0"),
            (12.34, "12.3"),
            (99.96, "100"),
            (999.4, "999"),
            (999.6, "1.00 k"),
            (4_560.0, "4.56 k"),
            (789_400_000.0, "789 M"),
            (1e19, "10000 P"),
        ] {
            assert_eq!(figure(value), want, "{value}");
        }
    }
}
