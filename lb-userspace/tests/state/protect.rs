//! Changes that would break flows: which are refused, and what a plan says of the others.

use lb_userspace::model::{Model, Protocol, Tracking, Vip};
use lb_userspace::state::contents::Contents;
use lb_userspace::state::plan::plan;
use lb_userspace::state::repoint::refused;

use crate::desire;
use crate::plain::{FOUND, hops, pool, small, vip};

/// What the maps hold under a model.
fn contents(model: &Model) -> Contents {
    desire(model, &hops(model, &[FOUND; 4]), &Contents::default())
}

/// Two pools, `web` and `api`, and these VIPs.
fn two(vips: Vec<Vip>) -> Model {
    let pools = vec![
        pool("web", &[("be1", 1), ("be2", 1)]),
        pool("api", &[("be1", 1), ("be2", 1)]),
    ];
    small(pools, vips)
}

fn port(port: u16, pool: usize) -> Vip {
    Vip { port, ..vip(1, pool) }
}

fn off(vip: Vip) -> Vip {
    Vip {
        tracking: Tracking::Off,
        ..vip
    }
}

#[test]
fn a_vip_keeps_its_pool_while_its_flows_are_tracked() {
    const WEB: usize = 0;
    const API: usize = 1;
    for (what, before, after, named) in [
        ("the same", vec![port(80, WEB)], vec![port(80, WEB)], vec![]),
        (
            "another pool",
            vec![port(80, WEB)],
            vec![port(80, API)],
            vec!["VIP 203.0.113.1:80/tcp can't change from pool web to pool api"],
        ),
        ("may break", vec![port(80, WEB)], vec![off(port(80, API))], vec![]),
        (
            "only the new file counts",
            vec![off(port(80, WEB))],
            vec![port(80, API)],
            vec!["VIP 203.0.113.1:80/tcp can't"],
        ),
        ("it goes", vec![port(80, WEB)], vec![], vec![]),
        (
            "it comes beside another",
            vec![port(80, WEB)],
            vec![port(80, WEB), port(81, API)],
            vec![],
        ),
        (
            "it takes flows from the VIP for every port",
            vec![port(0, WEB)],
            vec![port(0, WEB), port(443, API)],
            vec!["VIP 203.0.113.1:443/tcp can't change from pool web to pool api"],
        ),
        (
            "of the same pool",
            vec![port(0, WEB)],
            vec![port(0, WEB), port(443, WEB)],
            vec![],
        ),
        (
            "it gives them back",
            vec![port(0, WEB), port(443, API)],
            vec![port(0, WEB)],
            vec![
                "VIP 203.0.113.1:443/tcp, served by 203.0.113.1:any/tcp from then on, can't change from pool api",
            ],
        ),
        (
            "two at once",
            vec![port(80, WEB), port(443, API)],
            vec![port(80, API), port(443, WEB)],
            vec![
                "VIP 203.0.113.1:80/tcp can't change from pool web to pool api",
                "VIP 203.0.113.1:443/tcp can't change from pool api to pool web",
            ],
        ),
    ] {
        let refused = refused(&contents(&two(before)), &two(after));
        assert_eq!(refused.len(), named.len(), "{what}: {refused:?}");
        for words in named {
            let found = refused.iter().find(|text| text.contains(words));
            let text = found.unwrap_or_else(|| panic!("{what}: {words:?} is not in {refused:?}"));
            assert!(text.contains("set `tracking: off` for 203.0.113.1:"), "{text}");
        }
    }
    assert!(
        refused(&Contents::default(), &two(vec![port(80, WEB)])).is_empty(),
        "nothing was served before"
    );
}

#[test]
fn a_pool_with_another_name_is_another_pool() {
    let web = small(vec![pool("web", &[("be1", 1)])], vec![vip(1, 0)]);
    let renamed = small(vec![pool("www", &[("be1", 1)])], vec![vip(1, 0)]);
    assert_eq!(refused(&contents(&web), &renamed).len(), 1);
}

/// `be1` and `be2`, then `be2` and `be3`; 80/tcp is tracked, 53/udp is not.
#[test]
fn a_plan_names_the_vips_whose_flows_break() {
    let dns = || Vip {
        protocol: Protocol::Udp,
        ..off(port(53, 0))
    };
    let with = |backends, vips| small(vec![pool("web", backends)], vips);
    let before = with(&[("be1", 1), ("be2", 1)], vec![port(80, 0), dns()]);
    let planned = |after: &Model| {
        let (old, held) = (contents(&before), contents(&before));
        let desired = desire(after, &hops(after, &[FOUND; 4]), &held);
        plan(&before, after, &old, &desired)
    };
    let after = with(&[("be2", 1), ("be3", 1)], vec![port(80, 0), dns()]);
    let plan = planned(&after);
    let web = &plan.pools[0];
    assert!(web.slots_moved > 0);
    assert_eq!(web.vips_protected, ["203.0.113.1:80/tcp"]);
    assert_eq!(web.vips_unprotected, ["203.0.113.1:53/udp"]);
    assert_eq!(plan.leaving().collect::<Vec<_>>(), [("web", "be1")]);

    // It is what the new file says that counts, and what has no flows yet is not named.
    let always = Vip {
        tracking: Tracking::Always,
        ..dns()
    };
    let after = with(&[("be2", 1), ("be3", 1)], vec![always, off(port(8080, 0))]);
    let plan = planned(&after);
    assert_eq!(plan.pools[0].vips_protected, ["203.0.113.1:53/udp"]);
    assert_eq!(plan.pools[0].vips_unprotected, [""; 0]);

    // No slot moves, so nobody needs protection.
    let after = with(&[("be1", 2), ("be2", 2)], vec![port(80, 0), dns()]);
    let plan = planned(&after);
    assert_eq!(
        (plan.pools[0].slots_moved, plan.pools[0].reweighted.len()),
        (0, 2)
    );
    assert!(plan.pools[0].vips_protected.is_empty() && plan.pools[0].vips_unprotected.is_empty());
}
