//! Verdicts in words, with what to do on the backend.

use std::net::IpAddr;

use super::{Outer, Patient, Verdict};

/// What a verdict means, as a part of a sentence.
pub(super) fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Healthy => "nothing is wrong that can be seen from this node",
        Verdict::NoNextHop => "this node has no way to the backend",
        Verdict::NotAsked => "this node could not ask through the tunnel",
        Verdict::NoAnswer => "the host doesn't answer at all: it is down, or can't be reached",
        Verdict::NoDecapsulation => "the host answers, but doesn't take encapsulated packets of this node",
        Verdict::VipNotBound => {
            "encapsulated packets are unwrapped, but the VIP is not an address of the host"
        }
        Verdict::ReversePathFilter => {
            "encapsulated packets are taken, but what comes out of them is dropped: a reverse-path filter, or another one"
        }
        Verdict::MtuTooSmall => {
            "small packets come through, full-size ones don't: an MTU on the way is too small"
        }
        Verdict::ServiceRefuses => "packets come through, but the service refuses",
        Verdict::ServiceSilent => "packets come through, but the service gives no answer",
    }
}

/// What to do about a verdict.
pub(super) fn advice(verdict: Verdict, patient: &Patient, largest: Option<u16>) -> Vec<String> {
    let outer = patient.way.as_ref().ok();
    match verdict {
        Verdict::Healthy | Verdict::NotAsked => Vec::new(),
        Verdict::NoNextHop => vec![format!("on this node: ip route get {}", patient.address)],
        Verdict::NoAnswer => vec![
            format!(
                "on this node: ip route get {0}; ip neigh show {0}",
                patient.address
            ),
            "is the host up, and its firewall open to this node?".to_owned(),
        ],
        Verdict::NoDecapsulation => no_decapsulation(patient, outer),
        Verdict::VipNotBound => vip_not_bound(patient.vip),
        Verdict::ReversePathFilter => filtered(patient.vip),
        Verdict::MtuTooSmall => mtu(patient, outer, largest),
        Verdict::ServiceRefuses => vec![format!(
            "on the backend: does the service listen at {} (ss -lnt), and is it ready? `lbctl drain` takes it out of service \
             meanwhile",
            patient.vip
        )],
        Verdict::ServiceSilent => vec![format!(
            "on the backend: does the service hang, or does a firewall drop packets to {} alone?",
            patient.vip
        )],
    }
}

fn no_decapsulation(patient: &Patient, outer: Option<&Outer>) -> Vec<String> {
    let source = outer.map_or_else(|| "ADDRESS".to_owned(), |outer| outer.source.to_string());
    let module = match (patient.address, patient.vip) {
        (IpAddr::V4(_), IpAddr::V4(_)) => "ip link show type ipip",
        (IpAddr::V4(_), IpAddr::V6(_)) => "ip link show type sit",
        (IpAddr::V6(_), _) => "ip link show type ip6tnl",
    };
    vec![
        format!(
            "on the backend: `lbctl decap status` must name its interface, and {source} among the sources that it allows; \
             lbctl decap attach --interface IFACE --allow {source}"
        ),
        format!(
            "where the kernel's own tunnel is used: {module} must show one that is up and takes any remote"
        ),
        "a firewall there must let IP protocols 4 and 41 in".to_owned(),
    ]
}

fn vip_not_bound(vip: IpAddr) -> Vec<String> {
    let length = if vip.is_ipv4() { 32 } else { 128 };
    vec![
        format!("on the backend: ip addr add {vip}/{length} dev lo"),
        format!("if `ip addr show to {vip}` has it already, a firewall drops packets to it"),
    ]
}

fn filtered(vip: IpAddr) -> Vec<String> {
    let first = if vip.is_ipv4() {
        "on the backend, for `all` and for the interface that unwrapped packets come in by (the larger counts): \
         sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.IFACE.rp_filter=2; \
         `nstat -az TcpExtIPReversePathFilter` grows while it drops"
    } else {
        "on the backend: a rule with `rpfilter` (ip6tables -t raw -S; ip6tables -t mangle -S) or `fib saddr` \
         (nft list ruleset) must let packets in that come by the tunnel"
    };
    vec![
        first.to_owned(),
        format!(
            "else a firewall there drops unwrapped packets: to {vip}, and to its own address by the tunnel"
        ),
    ]
}

fn mtu(patient: &Patient, outer: Option<&Outer>, largest: Option<u16>) -> Vec<String> {
    let outer_len = outer.map_or(40, |outer| outer.len);
    let needed = outer.map_or(0, |outer| full(outer) + outer_len);
    let mut advice = vec![format!(
        "on every link from this node to {}: ip link set dev IFACE mtu {needed}",
        patient.address
    )];
    if let Some(largest) = largest {
        let headers = if patient.vip.is_ipv4() { 40 } else { 60 };
        advice.push(format!(
            "or on the backend, let clients send less: ip route change default via GATEWAY advmss {}",
            largest.saturating_sub(headers)
        ));
    }
    advice
}

/// The longest packet of a client that is tried: what this node would send on, and no more than the Internet carries.
pub(super) fn full(outer: &Outer) -> u16 {
    const INTERNET: u16 = 1500;
    outer.mtu.saturating_sub(outer.len).min(INTERNET)
}
