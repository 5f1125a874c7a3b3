//! What a plan says of flows, and which changes are refused because they would break them.

use std::fs;
use std::process::Output;

use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::flow::{Entry, Key};
use lb_tests::host::Node;
use lb_tests::node_config::NodeConfig;
use lb_tests::{Lab, LabError};
use lb_userspace::dataplane::flows::{Table, now};
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pin::Root;
use serde_json::{Value, json};

fn with_node(name: &str, job: impl FnOnce(&mut Node) -> Result<(), LabError>) {
    Lab::builder(name)
        .nodes(1)
        .run(|lab| job(lab.node(0)))
        .expect("the lab runs");
}

/// `lbctl config WHAT` of another configuration.
fn config(node: &Node, what: &str, config: &NodeConfig, json: bool) -> Result<Output, LabError> {
    let file = node.state_dir().join("new.yaml");
    fs::write(&file, config.to_yaml()?).expect("a file");
    let file = file.to_str().expect("text");
    let format = if json { "json" } else { "table" };
    node.lbctl(&["--output", format, "config", what, file])
}

fn text(out: &Output, code: i32) -> String {
    let text = [out.stdout.as_slice(), &out.stderr].concat();
    let text = String::from_utf8(text).expect("UTF-8");
    assert_eq!(out.status.code(), Some(code), "{text}");
    text
}

/// Two confirmed flows at a backend.
fn enter(node: &Node, backend: u64) {
    let mut maps = Maps::open(&Root::new(node.pin_root())).expect("its maps");
    let addr = |text: &str| Addr::from(text.parse::<std::net::IpAddr>().expect("an address"));
    let backend = u16::try_from(backend).expect("16 bits");
    for port in [4001, 4002] {
        let key = Key {
            src: addr("192.0.2.1"),
            dst: addr("10.200.1.1"),
            sport: Be16::new(port),
            dport: Be16::new(80),
            proto: 6,
            pad: [0; 3],
        };
        let entry = Entry::probation(backend, 1, now()).confirmed(now());
        maps.set_entry(Table::Flows, &key, &entry).expect("there is room");
    }
}

#[test]
fn a_plan_says_whose_flows_are_protected() {
    with_node("protect-plan", |node| {
        let all = node.lbctl_json(&["backends"])?;
        assert_eq!(all["backends"][1]["name"], "be2");
        let mut new = node.config().clone();
        new.pools[0].backends.remove(1);
        enter(node, all["backends"][1]["index"].as_u64().expect("an index"));
        let out = config(node, "plan", &new, true)?;
        let plan: Value = serde_json::from_str(&text(&out, 1)).expect("JSON");
        let web4 = &plan["plan"]["pools"][0];
        assert_eq!(web4["name"], "web4");
        assert_eq!(
            web4["vips_protected"],
            json!(["10.200.1.1:7/tcp", "10.200.1.1:80/tcp"])
        );
        assert_eq!(web4["vips_unprotected"], json!(["10.200.1.1:7/udp"]));
        assert_eq!(plan["leaving"], json!([{ "backend": "web4/be2", "entries": 2 }]));
        let shown = text(&config(node, "plan", &new, false)?, 1);
        for words in [
            " % of its slots move",
            "- be2: 2 entries of the flow table name it, whose flows stay there until they end",
            "flows of 10.200.1.1:7/tcp, 10.200.1.1:80/tcp are protected",
            "! flows of 10.200.1.1:7/udp in the slots that move",
        ] {
            assert!(shown.contains(words), "{words:?} is not in {shown}");
        }
        Ok(())
    });
}

#[test]
fn a_vip_whose_flows_are_kept_gets_no_other_pool() {
    with_node("protect-vip", |node| {
        let before = node.lbctl_json(&["vips"])?;
        let mut new = node.config().clone();
        new.vips[0].pool = "web6".to_owned();
        let words = "VIP 10.200.1.1:80/tcp can't change from pool web4 to pool web6 while flows are kept";
        for what in ["plan", "apply"] {
            let refused = text(&config(node, what, &new, false)?, 2);
            assert!(refused.contains(words), "{refused}");
            assert!(
                !refused.contains("lbctl detach"),
                "there are better ways: {refused}"
            );
        }
        assert_eq!(node.lbctl_json(&["vips"])?, before);
        // A second VIP is no change of the first.
        let second = new.vips[0].clone();
        new.vips[0].pool = "web4".to_owned();
        new.vips.push(second);
        new.vips.last_mut().expect("a VIP").port = 8080;
        text(&config(node, "apply", &new, false)?, 0);
        // Who doesn't mind says so.
        new.vips[0].pool = "web6".to_owned();
        new.vips[0].tracking = Some("off");
        text(&config(node, "apply", &new, false)?, 0);
        let vips = node.lbctl_json(&["vips"])?.to_string();
        assert_ne!(vips, before.to_string());
        // And tracks it again from then on.
        new.vips[0].tracking = Some("on-change");
        text(&config(node, "apply", &new, false)?, 0);
        Ok(())
    });
}
