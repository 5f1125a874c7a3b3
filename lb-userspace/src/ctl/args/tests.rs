use super::*;

#[test]
fn generations_are_named_with_or_without_their_node() {
    for (text, number) in [("0", 0), ("12", 12), ("12/lb2", 12)] {
        assert_eq!(generation(text).unwrap(), number, "{text}");
    }
    for text in ["", "/lb2", "lb2", "-1", "1.5/lb2"] {
        assert!(generation(text).is_err(), "{text}");
    }
}

#[test]
fn vips_are_named_in_whole_or_in_part() {
    use Protocol::{Tcp, Udp};
    for (text, address, port, protocol) in [
        ("192.0.2.1", "192.0.2.1", None, None),
        ("192.0.2.1:80", "192.0.2.1", Some(80), None),
        ("192.0.2.1:80/tcp", "192.0.2.1", Some(80), Some(Tcp)),
        ("192.0.2.1/udp", "192.0.2.1", None, Some(Udp)),
        ("192.0.2.1:any/tcp", "192.0.2.1", None, Some(Tcp)),
        ("192.0.2.1:0", "192.0.2.1", None, None),
        ("2001:db8::1", "2001:db8::1", None, None),
        ("[2001:db8::1]", "2001:db8::1", None, None),
        ("[2001:db8::1]:53/udp", "2001:db8::1", Some(53), Some(Udp)),
        ("[2001:db8::1]:any/tcp", "2001:db8::1", None, Some(Tcp)),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1", Some(80), None),
    ] {
        let want = VipFilter {
            address: address.parse().unwrap(),
            port,
            protocol,
        };
        assert_eq!(text.parse::<VipFilter>().unwrap(), want, "{text}");
    }
    for text in [
        "",
        "web",
        "192.0.2",
        "192.0.2.1:",
        "192.0.2.1:80/",
        "192.0.2.1:80/TCP",
        "[2001:db8::1",
        "/tcp",
    ] {
        assert!(text.parse::<VipFilter>().is_err(), "{text}");
    }
}
