//! Addresses, and `encap`, whose prefixes nothing else may touch.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_yaml::Spanned;

use super::{Check, Trail, place};
use crate::config::raw;
use crate::config::source::Excerpt;
use crate::config::what::{Class, Family, What, source_field};
use crate::model::Encap;

/// Why an address can't belong to one reachable host, if it can't.
pub(super) fn class(address: IpAddr) -> Option<Class> {
    match address {
        IpAddr::V4(address) => class_v4(address),
        IpAddr::V6(address) => class_v6(address),
    }
}

fn class_v4(address: Ipv4Addr) -> Option<Class> {
    match address.octets() {
        [0, 0, 0, 0] => Some(Class::Unspecified),
        [0, ..] => Some(Class::ThisNetwork),
        [255, 255, 255, 255] => Some(Class::Broadcast),
        _ if address.is_loopback() => Some(Class::Loopback),
        _ if address.is_link_local() => Some(Class::LinkLocal),
        _ if address.is_multicast() => Some(Class::Multicast),
        _ => None,
    }
}

fn class_v6(address: Ipv6Addr) -> Option<Class> {
    if address.is_unspecified() {
        Some(Class::Unspecified)
    } else if address.is_loopback() {
        Some(Class::Loopback)
    } else if address.is_multicast() {
        Some(Class::Multicast)
    } else if address.is_unicast_link_local() {
        Some(Class::LinkLocal)
    } else if address.to_ipv4_mapped().is_some() {
        Some(Class::Mapped)
    } else {
        None
    }
}

/// The address of a VIP or a backend: usable, and outside the outer sources.
pub(super) fn address(
    check: &mut Check<'_>,
    text: &Spanned<String>,
    trail: Trail<'_>,
    encap: &Encap,
) -> Option<IpAddr> {
    let Ok(address) = text.value.parse() else {
        check.report(place(text), trail, What::Address(Excerpt::new(&text.value)));
        return None;
    };
    if let Some(class) = class(address) {
        check.report(place(text), trail, What::Unusable { address, class });
        return None;
    }
    let sources = [encap.source_ipv4.map(IpNet::V4), encap.source_ipv6.map(IpNet::V6)];
    if let Some(prefix) = sources
        .into_iter()
        .flatten()
        .find(|prefix| prefix.contains(&address))
    {
        let field = source_field(Family::of(address));
        check.report(
            place(text),
            trail,
            What::InsideSource {
                address,
                field,
                prefix,
            },
        );
    }
    Some(address)
}

pub(super) fn encap(check: &mut Check<'_>, file: &raw::File) -> Encap {
    let Some(encap) = &file.encap else {
        return Encap::default();
    };
    let trail = Trail::Root.field("encap");
    let mut prefix = |text: &Option<Spanned<String>>, family| {
        text.as_ref()
            .and_then(|text| source(check, text, trail.field(source_field(family)), family))
    };
    Encap {
        source_ipv4: prefix(&encap.value.source_ipv4, Family::V4).and_then(v4),
        source_ipv6: prefix(&encap.value.source_ipv6, Family::V6).and_then(v6),
    }
}

fn v4(prefix: IpNet) -> Option<Ipv4Net> {
    if let IpNet::V4(prefix) = prefix {
        Some(prefix)
    } else {
        None
    }
}

fn v6(prefix: IpNet) -> Option<Ipv6Net> {
    if let IpNet::V6(prefix) = prefix {
        Some(prefix)
    } else {
        None
    }
}

/// An outer source: an address, or a prefix all of whose addresses are usable.
fn source(check: &mut Check<'_>, text: &Spanned<String>, trail: Trail<'_>, family: Family) -> Option<IpNet> {
    let prefix = text
        .value
        .parse::<IpNet>()
        .or_else(|_| text.value.parse::<IpAddr>().map(IpNet::from));
    let what = match prefix {
        Err(_) => What::Prefix(Excerpt::new(&text.value)),
        Ok(prefix) if Family::of(prefix.addr()) != family => What::OtherFamily {
            found: prefix,
            family: family.other(),
        },
        Ok(prefix) if prefix.trunc() != prefix => What::HostBits(prefix),
        Ok(prefix) => match unusable(prefix) {
            Some(what) => what,
            None => return Some(prefix),
        },
    };
    check.report(place(text), trail, what);
    None
}

/// The first or last address of a prefix, if it is unusable; the classes lie at the ends of large prefixes.
fn unusable(prefix: IpNet) -> Option<What> {
    let ends = [prefix.network(), prefix.broadcast()];
    ends.into_iter()
        .find_map(|address| class(address).map(|class| What::Unusable { address, class }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        for (text, want) in [
            ("0.0.0.0", Some(Class::Unspecified)),
            ("0.0.0.1", Some(Class::ThisNetwork)),
            ("127.1.2.3", Some(Class::Loopback)),
            ("169.254.0.1", Some(Class::LinkLocal)),
            ("224.0.0.1", Some(Class::Multicast)),
            ("239.255.255.255", Some(Class::Multicast)),
            ("255.255.255.255", Some(Class::Broadcast)),
            ("::", Some(Class::Unspecified)),
            ("::1", Some(Class::Loopback)),
            ("fe80::1", Some(Class::LinkLocal)),
            ("febf::1", Some(Class::LinkLocal)),
            ("ff02::1", Some(Class::Multicast)),
            ("::ffff:10.0.0.1", Some(Class::Mapped)),
            ("10.0.0.1", None),
            ("100.64.0.1", None),
            ("1.0.0.0", None),
            ("fec0::1", None),
            ("fd00::1", None),
            ("2001:db8::1", None),
        ] {
            assert_eq!(class(text.parse().unwrap()), want, "{text}");
        }
    }
}
