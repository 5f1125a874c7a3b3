//! Next hops of a real kernel.

mod kit;

use std::time::Duration;

use lb_userspace::model::Via;
use lb_userspace::net::{self, Hop, Medium, NextHop, Resolver, Target, Why};
use tokio::time::{Instant, sleep, timeout};

use kit::{GATEWAY_1, GATEWAY_2, Lab, SOON, UPLINK_1, address, connect, hasten, target};

fn via(text: &str, interface: &str) -> Target {
    Target {
        via: Some(Via {
            interface: interface.to_owned(),
            mac: [2, 9, 9, 9, 9, 9],
        }),
        ..target(text)
    }
}

async fn one(resolver: &mut Resolver, target: &Target) -> NextHop {
    resolver
        .resolve(std::slice::from_ref(target))
        .await
        .expect("a pass")
        .remove(0)
}

fn hop(next_hop: &NextHop) -> &Hop {
    next_hop
        .hop()
        .unwrap_or_else(|| panic!("not resolved: {next_hop:?}"))
}

fn why(next_hop: NextHop) -> Why {
    match next_hop {
        NextHop::Unresolved(why) => why,
        NextHop::Resolved(hop) => panic!("resolved: {hop:?}"),
    }
}

/// Whether an event is reported before `limit` has passed.
async fn changes(resolver: &mut Resolver, limit: Duration) -> bool {
    timeout(limit, resolver.changed())
        .await
        .map(|changed| changed.expect("events"))
        .is_ok()
}

/// Runs the agent's loop until `done`: a pass after each change, a refresh every 300 ms. Returns the number of passes.
async fn drive(resolver: &mut Resolver, target: &Target, done: impl Fn(&NextHop) -> bool) -> u32 {
    let (start, mut passes) = (Instant::now(), 0);
    loop {
        assert!(start.elapsed() < SOON, "not within {SOON:?}");
        tokio::select! {
            changed = resolver.changed() => {
                changed.expect("events");
                passes += 1;
                if done(&one(resolver, target).await) {
                    return passes;
                }
            }
            () = sleep(Duration::from_millis(300)) => resolver.refresh().await.expect("a refresh"),
        }
    }
}

#[test]
fn gateways_and_on_link_targets_are_resolved() {
    let lab = Lab::new("found");
    lab.host.ip("route add 10.1.0.0/16 via 10.0.1.2 mtu 1400");
    lab.host.ip("route add 10.2.0.0/16 via 10.0.2.2");
    lab.host
        .ip("route add 10.3.0.0/16 via inet6 2001:db8:1::2 dev up1 src 10.0.1.1");
    lab.host
        .ip("-6 route add 2001:db8:100::/48 via 2001:db8:2::2 mtu 1300");
    lab.host.run(async || {
        let mut resolver = Resolver::open().await.expect("a resolver");
        let targets = [
            ("10.1.0.9", "up1", GATEWAY_1, 1400, "10.0.1.1"),
            ("10.2.0.9", "up2", GATEWAY_2, 1500, "10.0.2.1"),
            ("10.3.0.9", "up1", GATEWAY_1, 1500, "10.0.1.1"),
            ("10.0.2.2", "up2", GATEWAY_2, 1500, "10.0.2.1"),
            ("2001:db8:1::2", "up1", GATEWAY_1, 1500, "2001:db8:1::1"),
            ("2001:db8:100::9", "up2", GATEWAY_2, 1300, "2001:db8:2::1"),
        ];
        let asked: Vec<Target> = targets.iter().map(|(text, ..)| target(text)).collect();
        let start = Instant::now();
        let answers = resolver.resolve(&asked).await.expect("a pass");
        println!("cold pass over {} targets: {:?}", targets.len(), start.elapsed());
        let links = net::links().await.expect("the links");
        for ((text, interface, mac, mtu, source), answer) in targets.into_iter().zip(&answers) {
            let link = &links[interface];
            let Medium::Ethernet { mac: source_mac } = link.medium else {
                panic!("{link:?}")
            };
            let expected = Hop {
                ifindex: link.ifindex,
                interface: interface.to_owned(),
                destination_mac: mac,
                source_mac,
                mtu,
                source: address(source),
            };
            assert_eq!(hop(answer), &expected, "{text}");
        }
        let fixed = Target {
            source: Some(address("10.99.0.1")),
            ..target("10.1.0.9")
        };
        assert_eq!(
            hop(&one(&mut resolver, &fixed).await).source,
            address("10.99.0.1")
        );
    });
}

#[test]
fn what_cannot_be_reached_says_why() {
    let lab = Lab::new("refused");
    for (family, prefix) in [("-4", "10.7."), ("-6", "2001:db8:7")] {
        let end = if family == "-4" { ".0/24" } else { "::/48" };
        for (n, kind) in ["unreachable", "blackhole", "prohibit"].into_iter().enumerate() {
            lab.host
                .ip(&format!("{family} route add {kind} {prefix}{n}{end}"));
        }
    }
    lab.host.ip("tuntap add dev tun0 mode tun");
    lab.host.ip("addr add 10.8.0.1/24 dev tun0");
    lab.host.ip("link set tun0 up");
    lab.host.run(async || {
        let mut resolver = Resolver::open().await.expect("a resolver");
        let up1 = lb_userspace::net::links().await.expect("links")["up1"].ifindex;
        let cases = [
            ("10.7.0.9", Why::Unreachable),
            ("10.7.1.9", Why::Blackhole),
            ("10.7.2.9", Why::Prohibited),
            ("2001:db8:70::9", Why::Unreachable),
            ("2001:db8:71::9", Why::Blackhole),
            ("2001:db8:72::9", Why::Prohibited),
            ("192.0.2.1", Why::NoRoute),
            ("2001:db8:ffff::1", Why::NoRoute),
            ("10.0.1.1", Why::Local),
            ("2001:db8:1::1", Why::Local),
            ("127.0.0.1", Why::Local),
            ("10.0.1.255", Why::NotUnicast),
            ("10.8.0.9", Why::NotEthernet("tun0".into())),
            (
                "10.0.1.77",
                Why::NoNeighbour {
                    address: address("10.0.1.77"),
                    interface: "up1".into(),
                    ifindex: up1,
                },
            ),
        ];
        let targets: Vec<Target> = cases.iter().map(|(text, _)| target(text)).collect();
        let answers = resolver.resolve(&targets).await.expect("a pass");
        for ((text, expected), answer) in cases.into_iter().zip(answers) {
            let why = why(answer);
            println!("{text}: {why}");
            assert_eq!(why, expected, "{text}");
        }
    });
}

#[test]
fn a_static_via_needs_only_the_link() {
    let lab = Lab::new("via");
    lab.host.ip("link add bare type veth peer name bare2");
    lab.host.ip("link set bare up");
    lab.host.ip("link set bare2 up");
    lab.host.run(async || {
        let mut resolver = Resolver::open().await.expect("a resolver");
        for (text, source) in [("192.0.2.1", "10.0.1.1"), ("2001:db8:ffff::1", "2001:db8:1::1")] {
            let answer = one(&mut resolver, &via(text, "up1")).await;
            let hop = hop(&answer);
            assert_eq!(
                (hop.destination_mac, hop.source_mac),
                ([2, 9, 9, 9, 9, 9], UPLINK_1)
            );
            assert_eq!((hop.mtu, hop.source), (1500, address(source)));
        }
        assert_eq!(
            why(one(&mut resolver, &via("10.9.9.9", "no1")).await),
            Why::NoInterface("no1".into())
        );
        assert_eq!(
            why(one(&mut resolver, &via("10.9.9.9", "lo")).await),
            Why::NotEthernet("lo".into())
        );
        let bare = via("10.9.9.9", "bare");
        assert_eq!(why(one(&mut resolver, &bare).await), Why::NoSource("bare".into()));
        let fixed = Target {
            source: Some(address("10.0.0.1")),
            ..bare
        };
        assert_eq!(hop(&one(&mut resolver, &fixed).await).source, address("10.0.0.1"));

        // Replaced under the same name: found anew, with its new index and MTU.
        let before = hop(&one(&mut resolver, &via("192.0.2.1", "up1")).await).ifindex;
        lab.host.ip("link del up1");
        assert!(changes(&mut resolver, SOON).await);
        assert_eq!(
            why(one(&mut resolver, &via("192.0.2.1", "up1")).await),
            Why::NoInterface("up1".into())
        );
        connect(&lab.host, &lab.gateways[0], 1);
        lab.host.ip("link set up1 mtu 1280");
        assert!(changes(&mut resolver, SOON).await);
        let after = one(&mut resolver, &via("192.0.2.1", "up1")).await;
        assert!(
            hop(&after).ifindex != before && hop(&after).mtu == 1280,
            "{after:?}"
        );
    });
}

#[test]
fn a_deleted_neighbour_stays_until_it_fails() {
    for (name, backend, neighbour, silence) in [
        ("kept4", "10.1.0.9", "10.0.1.2", "addr del 10.0.1.2/24 dev eth0"),
        (
            "kept6",
            "2001:db8:100::9",
            "2001:db8:1::2",
            "addr del 2001:db8:1::2/64 dev eth0",
        ),
    ] {
        let lab = Lab::new(name);
        lab.host.ip("route add 10.1.0.0/16 via 10.0.1.2");
        lab.host.ip("-6 route add 2001:db8:100::/48 via 2001:db8:1::2");
        lab.host.run(async || {
            let mut resolver = Resolver::open().await.expect("a resolver");
            let target = target(backend);
            let before = one(&mut resolver, &target).await;
            assert_eq!(hop(&before).destination_mac, GATEWAY_1);
            assert!(
                !changes(&mut resolver, Duration::from_millis(300)).await,
                "a pass is no change"
            );

            // Collected by the kernel: asked again, and there again.
            lab.host.ip(&format!("neigh del {neighbour} dev up1"));
            assert!(changes(&mut resolver, SOON).await);
            assert_eq!(one(&mut resolver, &target).await, before);
            let entry = lab.host.ip(&format!("neigh show to {neighbour} dev up1"));
            assert!(
                entry.contains("lladdr 02:00:00:00:01:02") || entry.contains("INCOMPLETE"),
                "{entry}"
            );

            // Collected and silent: kept while the kernel asks, lost when it gives up.
            lab.gateways[0].ip(silence);
            lab.host.ip(&format!("neigh del {neighbour} dev up1"));
            assert_eq!(one(&mut resolver, &target).await, before);
            let failed = Why::NeighbourFailed {
                address: address(neighbour),
                interface: "up1".into(),
            };
            let lost = NextHop::Unresolved(failed);
            drive(&mut resolver, &target, |answer| *answer == lost).await;
        });
    }
}

#[test]
fn a_silent_neighbour_is_given_up_and_comes_back() {
    for (name, backend, gateway) in [
        ("silent4", "10.1.0.9", "10.0.1.2/24"),
        ("silent6", "2001:db8:100::9", "2001:db8:1::2/64"),
    ] {
        let lab = Lab::new(name);
        lab.host.ip("route add 10.1.0.0/16 via 10.0.1.2");
        lab.host.ip("-6 route add 2001:db8:100::/48 via 2001:db8:1::2");
        lab.host.run(async || {
            hasten("up1");
            let mut resolver = Resolver::open().await.expect("a resolver");
            let target = target(backend);
            assert_eq!(hop(&one(&mut resolver, &target).await).destination_mac, GATEWAY_1);

            lab.gateways[0].ip(&format!("addr del {gateway} dev eth0"));
            let start = Instant::now();
            drive(&mut resolver, &target, |answer| answer.hop().is_none()).await;
            println!("{name}: given up after {:?}", start.elapsed());
            let again = why(one(&mut resolver, &target).await);
            assert!(
                matches!(again, Why::NeighbourFailed { .. }),
                "asking is no answer: {again:?}"
            );

            let nodad = if backend.contains(':') { "nodad" } else { "" };
            lab.gateways[0].ip(&format!("addr add {gateway} dev eth0 {nodad}"));
            let start = Instant::now();
            drive(&mut resolver, &target, |answer| answer.hop().is_some()).await;
            println!("{name}: back after {:?}", start.elapsed());
        });
    }
}

#[test]
fn refreshing_keeps_a_neighbour_alive() {
    let lab = Lab::new("alive");
    let entry = || lab.host.ip("neigh show to 10.0.1.2 dev up1");
    lab.host.run(async || {
        hasten("up1");
        let mut resolver = Resolver::open().await.expect("a resolver");
        let target = target("10.0.1.2");
        assert!(one(&mut resolver, &target).await.hop().is_some());
        // A request by the gateway itself may turn DELAY into STALE; the next use ends that.
        let mut stale = 0;
        for _ in 0..30 {
            sleep(Duration::from_millis(300)).await;
            resolver.refresh().await.expect("a refresh");
            stale = if entry().contains("STALE") { stale + 1 } else { 0 };
            assert!(stale < 2, "refreshing does not help: {}", entry());
        }
        assert!(
            !changes(&mut resolver, Duration::from_millis(100)).await,
            "the same MAC is no change"
        );
        // The control: without refreshing it does go stale, and stays so.
        let start = Instant::now();
        while stale < 4 {
            assert!(start.elapsed() < SOON, "never stale: {}", entry());
            sleep(Duration::from_millis(300)).await;
            stale = if entry().contains("STALE") { stale + 1 } else { 0 };
        }
        assert!(
            one(&mut resolver, &target).await.hop().is_some(),
            "stale is usable"
        );
    });
}

#[test]
fn a_changed_route_or_mac_or_link_is_followed() {
    for (name, family, prefix, backend, gateways) in [
        (
            "moved4",
            "-4",
            "10.1.0.0/16",
            "10.1.0.9",
            ["10.0.1.2", "10.0.2.2"],
        ),
        (
            "moved6",
            "-6",
            "2001:db8:100::/48",
            "2001:db8:100::9",
            ["2001:db8:1::2", "2001:db8:2::2"],
        ),
    ] {
        let lab = Lab::new(name);
        lab.host
            .ip(&format!("{family} route add {prefix} via {}", gateways[0]));
        lab.host.run(async || {
            let mut resolver = Resolver::open().await.expect("a resolver");
            let target = target(backend);
            assert_eq!(hop(&one(&mut resolver, &target).await).destination_mac, GATEWAY_1);

            let route = if family == "-4" {
                "10.200.0.0/16"
            } else {
                "2001:db8:200::/48"
            };
            lab.host
                .ip(&format!("{family} route add {route} via {}", gateways[0]));
            assert!(
                !changes(&mut resolver, Duration::from_millis(300)).await,
                "a route to elsewhere"
            );

            lab.host
                .ip(&format!("{family} route replace {prefix} via {}", gateways[1]));
            assert!(changes(&mut resolver, SOON).await);
            let moved = one(&mut resolver, &target).await;
            assert_eq!(
                (hop(&moved).destination_mac, &*hop(&moved).interface),
                (GATEWAY_2, "up2")
            );

            let mac = "02:00:00:00:02:99";
            lab.host.ip(&format!(
                "neigh replace {} lladdr {mac} dev up2 nud reachable",
                gateways[1]
            ));
            assert!(changes(&mut resolver, SOON).await);
            assert_eq!(
                hop(&one(&mut resolver, &target).await).destination_mac,
                [2, 0, 0, 0, 2, 0x99]
            );

            lab.host.ip("link set up2 mtu 1450");
            assert!(changes(&mut resolver, SOON).await);
            assert_eq!(hop(&one(&mut resolver, &target).await).mtu, 1450);

            // The other end goes down: no carrier here.
            lab.gateways[1].ip("link set eth0 down");
            drive(&mut resolver, &target, |answer| answer.hop().is_none()).await;
            let down = why(one(&mut resolver, &target).await);
            println!("{name}: {down}");
            assert!(matches!(down, Why::InterfaceDown(_) | Why::NoRoute), "{down:?}");
            lab.gateways[1].ip("link set eth0 up");
            drive(&mut resolver, &target, |answer| answer.hop().is_some()).await;

            lab.host.ip(&format!("{family} route del {prefix}"));
            assert!(changes(&mut resolver, SOON).await);
            assert_eq!(why(one(&mut resolver, &target).await), Why::NoRoute);
        });
    }
}

#[test]
fn a_multipath_route_is_stable() {
    for (name, family, prefix, base, gateways) in [
        ("ecmp4", "-4", "10.9.0.0/16", "10.9.0.", ["10.0.1.2", "10.0.2.2"]),
        (
            "ecmp6",
            "-6",
            "2001:db8:9::/48",
            "2001:db8:9::",
            ["2001:db8:1::2", "2001:db8:2::2"],
        ),
    ] {
        let lab = Lab::new(name);
        let [one, two] = gateways;
        lab.host.ip(&format!(
            "{family} route add {prefix} nexthop via {one} nexthop via {two}"
        ));
        let targets: Vec<Target> = (1..=100).map(|n| target(&format!("{base}{n}"))).collect();
        lab.host.run(async || {
            let mut resolver = Resolver::open().await.expect("a resolver");
            let before = resolver.resolve(&targets).await.expect("a pass");
            let uses = |mac| {
                before
                    .iter()
                    .filter(|answer| hop(answer).destination_mac == mac)
                    .count()
            };
            assert!(
                uses(GATEWAY_1) > 10 && uses(GATEWAY_2) > 10,
                "both gateways are used"
            );

            lab.host.ip(&format!(
                "{family} route replace {prefix} nexthop via {one} weight 9 nexthop via {two} weight 1"
            ));
            assert!(changes(&mut resolver, SOON).await);
            assert_eq!(
                resolver.resolve(&targets).await.expect("a pass"),
                before,
                "nothing moves"
            );
            let mut fresh = Resolver::open().await.expect("a resolver");
            assert_ne!(
                fresh.resolve(&targets).await.expect("a pass"),
                before,
                "the kernel's picks do move"
            );

            lab.host
                .ip(&format!("{family} route replace {prefix} nexthop via {one}"));
            assert!(changes(&mut resolver, SOON).await);
            let after = resolver.resolve(&targets).await.expect("a pass");
            assert!(
                after
                    .iter()
                    .all(|answer| hop(answer).destination_mac == GATEWAY_1)
            );
        });
    }
}

#[test]
fn a_dead_gateway_of_a_multipath_route_is_left() {
    let lab = Lab::new("leave");
    lab.host
        .ip("route add 10.9.0.0/16 nexthop via 10.0.1.2 nexthop via 10.0.2.2");
    let targets: Vec<Target> = (1..=50).map(|n| target(&format!("10.9.0.{n}"))).collect();
    lab.host.run(async || {
        hasten("up1");
        let mut resolver = Resolver::open().await.expect("a resolver");
        let before = resolver.resolve(&targets).await.expect("a pass");
        lab.gateways[0].ip("addr del 10.0.1.2/24 dev eth0");
        let first = before
            .iter()
            .position(|answer| hop(answer).destination_mac == GATEWAY_1);
        let leaver = &targets[first.expect("one that uses the first gateway")];
        drive(&mut resolver, leaver, |answer| {
            answer.hop().is_some_and(|hop| hop.destination_mac == GATEWAY_2)
        })
        .await;
        let start = Instant::now();
        let after = resolver.resolve(&targets).await.expect("a pass");
        assert!(
            start.elapsed() < Duration::from_millis(900),
            "no waiting for what is known: {:?}",
            start.elapsed()
        );
        assert!(
            after
                .iter()
                .all(|answer| hop(answer).destination_mac == GATEWAY_2)
        );
    });
}

#[test]
fn four_thousand_targets_take_well_under_a_second() {
    let lab = Lab::new("many");
    lab.host.ip("route add 10.1.0.0/16 via 10.0.1.2");
    lab.host.ip("-6 route add 2001:db8:100::/48 via 2001:db8:1::2");
    lab.host.run(async || {
        let mut resolver = Resolver::open().await.expect("a resolver");
        for (count, base) in [(1_000_u32, "10.1."), (4_096, "10.1."), (4_096, "2001:db8:100::")] {
            let text = |n: u32| match base.contains(':') {
                true => format!("{base}{n:x}"),
                false => format!("{base}{}.{}", n >> 8, n & 255),
            };
            let targets: Vec<Target> = (1..=count).map(|n| target(&text(n))).collect();
            let mut best = Duration::MAX;
            for pass in ["first", "second", "third"] {
                let start = Instant::now();
                let answers = resolver.resolve(&targets).await.expect("a pass");
                best = best.min(start.elapsed());
                println!("{count} targets in {base}, {pass} pass: {:?}", start.elapsed());
                assert!(
                    answers
                        .iter()
                        .all(|answer| hop(answer).destination_mac == GATEWAY_1)
                );
            }
            assert!(
                best < Duration::from_millis(900),
                "{best:?}, with optimisation off"
            );
        }
        let start = Instant::now();
        resolver.refresh().await.expect("a refresh");
        println!("refresh: {:?}", start.elapsed());
    });
}

#[test]
fn lost_events_are_a_change() {
    let lab = Lab::new("overrun");
    let routes = |from: u32, to: u32| {
        let lines =
            (from..to).map(|n| format!("route add 10.{}.{}.1/32 via 10.0.2.2\n", 100 + (n >> 8), n & 255));
        lab.host.batch(&lines.collect::<String>());
    };
    lab.host.run(async || {
        let mut resolver = Resolver::open().await.expect("a resolver");
        assert!(one(&mut resolver, &target("10.0.1.2")).await.hop().is_some());
        routes(0, 100);
        assert!(
            !changes(&mut resolver, Duration::from_millis(300)).await,
            "routes to elsewhere, all read"
        );
        // More than the kernel's buffer holds.
        routes(100, 20_000);
        assert!(changes(&mut resolver, SOON).await, "something was lost");
        assert!(one(&mut resolver, &target("10.0.1.2")).await.hop().is_some());
        assert!(
            !changes(&mut resolver, Duration::from_millis(300)).await,
            "and now all is read"
        );
    });
}
