use proptest::prelude::*;

use super::*;

const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

const WHOLE: &str = "\
# The site's balancers.
node: {name: lb1, interfaces: [eth0]}  # mine

# All of us.
group:
  nodes:
    - {name: lb1, address: 192.0.2.1}
    - {name: lb2, address: 192.0.2.2}
  # Secret.
  key: 0f1e2d3c4b5a69788796a5b4c3d2e1f0
  peering:
    # Mine, too.
    pki: pki
    heartbeat: 20ms
  max_tracked: 3600
encap:
  source_ipv4: 192.0.2.16/28
pools:
# Of the shop.
- name: web
  backends:
  - {name: be1, address: 198.51.100.1}
vips:
  - {address: 203.0.113.1, port: 80, protocol: tcp, pool: web}
metrics: {listen: 127.0.0.1:9400}
# The end.
";

fn key() -> GroupKey {
    KEY.parse().unwrap()
}

#[test]
fn what_is_shared_and_what_is_not() {
    let parts = split(WHOLE, Some(&key())).unwrap();
    let shared = "
# All of us.
group:
  nodes:
    - {name: lb1, address: 192.0.2.1}
    - {name: lb2, address: 192.0.2.2}
  peering:
    heartbeat: 20ms
  max_tracked: 3600
pools:
# Of the shop.
- name: web
  backends:
  - {name: be1, address: 198.51.100.1}
vips:
  - {address: 203.0.113.1, port: 80, protocol: tcp, pool: web}
";
    assert_eq!(parts.shared, shared);
    assert_eq!(parts.local.group, format!("# Secret.\nkey: {KEY}\n"));
    let nodes = "nodes:\n  - {name: lb1, address: 192.0.2.1}\n  - {name: lb2, address: 192.0.2.2}\n";
    assert_eq!(parts.local.nodes, nodes);
    let peering = "peering:\n  # Mine, too.\n  pki: pki\n  heartbeat: 20ms\n";
    assert_eq!(parts.local.peering, peering);
    let names: Vec<&str> = parts
        .local
        .sections
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["node", "encap", "metrics"]);
    assert_eq!(parts.local.tail, "# The end.\n");
}

#[test]
fn another_nodes_part_makes_another_text() {
    let shared = split(WHOLE, None).unwrap().shared;
    let other =
        "node:\n  name: lb2\n  interfaces: [eth7]\ngroup:\n    key_file: /etc/tandem/key\n    nodes: [lb2]\n";
    let local = split(other, None).unwrap().local;
    let merged = merge(&shared, &local).unwrap();
    let value = value(&merged).unwrap();
    assert_eq!(value["node"]["name"], "lb2");
    assert_eq!(value["group"]["key_file"], "/etc/tandem/key");
    assert_eq!(
        value["group"]["nodes"],
        serde_json::json!(["lb2"]),
        "read at the start"
    );
    assert_eq!(value["group"]["peering"]["heartbeat"], "20ms");
    assert_eq!(value["group"].get("key"), None);
    assert_eq!(value.get("metrics"), None);
    let again = split(&merged, None).unwrap().shared;
    assert_ne!(digest(&again), digest(&shared), "who is in the group differs");
    let same = "node: {name: lb2}\nencap: {source_ipv4: 192.0.2.32/28}\n";
    let merged = merge(&shared, &split(same, None).unwrap().local).unwrap();
    assert_eq!(
        split(&merged, None).unwrap().shared,
        shared,
        "it is the same for the next"
    );
}

#[test]
fn comments_and_order_are_no_drift_and_values_are() {
    let of = |text: &str| digest(&split(text, None).unwrap().shared).unwrap();
    let first = of(WHOLE);
    for (from, to) in [
        ("# Of the shop.\n", ""),
        ("max_tracked: 3600", "max_tracked:   \"3600\"  # an hour"),
        ("key: 0f1e2d3c4b5a69788796a5b4c3d2e1f0", "key_file: elsewhere"),
        ("    pki: pki\n", ""),
        ("metrics: {listen: 127.0.0.1:9400}\n", ""),
        ("eth0", "eth1"),
        ("port: 80, protocol: tcp", "protocol: tcp, port: 80"),
    ] {
        assert_eq!(of(&WHOLE.replace(from, to)), first, "{to:?} for {from:?}");
    }
    for (from, to) in [
        ("3600", "3601"),
        ("be1", "be2"),
        ("heartbeat: 20ms", "heartbeat: 21ms"),
        ("  max_tracked: 3600\n", ""),
        ("address: 192.0.2.2", "address: 192.0.2.3"),
    ] {
        assert_ne!(of(&WHOLE.replace(from, to)), first, "{to:?} for {from:?}");
    }
}

#[test]
fn what_cant_be_cut_is_refused_with_its_line() {
    let pools = "pools:\n  - {name: web}\n";
    for (text, want) in [
        ("{node: {name: a}}\n".to_owned(), TextError::NoSection { line: 1 }),
        (format!("{pools}...\n"), TextError::Marker { line: 3 }),
        (format!("%YAML 1.2\n---\n{pools}"), TextError::Marker { line: 1 }),
        (format!("{pools}---\n{pools}"), TextError::Marker { line: 3 }),
        (format!("{pools}\t- x\n"), TextError::Tab { line: 3 }),
        (format!("{pools}? vips\n: []\n"), TextError::NoSection { line: 3 }),
        (
            format!("{pools}pools: []\n"),
            TextError::Twice("pools".to_owned()),
        ),
        (
            format!("group: {{nodes: [a], key: {KEY}}}\n{pools}"),
            TextError::Braces {
                field: "key",
                of: "group",
            },
        ),
        (
            "group:\n  peering: {pki: /x}\n".to_owned(),
            TextError::Braces {
                field: "pki",
                of: "peering",
            },
        ),
        (
            "group: &g\n  key_file: x\n".to_owned(),
            TextError::Braces {
                field: "key_file",
                of: "group",
            },
        ),
        (
            "encap: &e {source_ipv4: 192.0.2.1}\ncapacity: *e\n".to_owned(),
            TextError::Uncut,
        ),
        (format!("pools:\n  - name: x # {KEY}\n"), TextError::Key),
        (
            format!("pools:\n  - name: x # {}\n", KEY.to_uppercase()),
            TextError::Key,
        ),
        (
            "group:\n  # old: ffffffffffffffffffffffffffffffff\n  nodes: [a]\n".to_owned(),
            TextError::Key,
        ),
    ] {
        assert_eq!(split(&text, Some(&key())), Err(want), "{text}");
    }
}

#[test]
fn the_key_travels_in_no_form() {
    let block = format!("group:\n  nodes: [a, b]\n  \"key\" :\n    {KEY}\n");
    let parts = split(&block, Some(&key())).unwrap();
    assert!(!parts.shared.contains(KEY));
    let folded = format!("group:\n  key: >-\n    {KEY}\n  # {KEY}\n  nodes: [a, b]\n");
    assert_eq!(split(&folded, Some(&key())), Err(TextError::Key));
    let aliased = format!("node: {{name: &k {KEY}}}\ngroup: {{<<: {{key: *k}}}}\n");
    assert!(split(&aliased, Some(&key())).is_err());
}

#[test]
fn a_file_without_its_own_part_takes_the_running_one() {
    let running = split(WHOLE, None).unwrap().local;
    let shared = split("pools: []\nvips: []\n", None).unwrap();
    assert_eq!(shared.local.over(&running), running);
    let own = split("node: {name: lb1}\n", None).unwrap().local.over(&running);
    assert_eq!(
        own.group, running.group,
        "the key need not stand in a file that goes round"
    );
    assert_eq!(
        (own.sections.len(), own.nodes.as_str(), own.peering.as_str()),
        (1, "", "")
    );
    let others = split("group:\n  nodes: [lb1, lb9]\n", None)
        .unwrap()
        .local
        .over(&running);
    assert_eq!(
        (others.nodes.as_str(), others.tail),
        ("nodes: [lb1, lb9]\n", running.tail)
    );
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("# a comment".to_owned()),
        Just("   # an indented one".to_owned()),
        "(node|group|capacity|encap|pools|vips|metrics): ?",
        "(node|encap|vips): \\{name: [a-z]{1,3}\\}",
        "(pools|vips): (\\[\\]|&a|\\*a|\\||null)",
        " {1,4}(key|key_file|pki|peering|nodes|name|max_tracked): ?[a-z0-9]{0,3}",
        " {0,4}- (name: )?[a-z]{1,3}",
        "[ -~]{0,12}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn whatever_is_cut_says_the_same_again(lines in proptest::collection::vec(line(), 0..14), crlf: bool, last: bool) {
        let end = if crlf { "\r\n" } else { "\n" };
        let mut text = lines.join(end);
        if last {
            text.push_str(end);
        }
        if let Ok(parts) = split(&text, None) {
            let merged = merge(&parts.shared, &parts.local).unwrap();
            prop_assert_eq!(value(&merged).unwrap(), value(&text).unwrap());
            let again = split(&merged, None).unwrap();
            prop_assert_eq!(digest(&again.shared), digest(&parts.shared));
            // What is put together and cut again and again doesn't grow.
            let second = merge(&again.shared, &again.local).unwrap();
            prop_assert_eq!(&second, &merged);
            prop_assert_eq!(&again.shared, &parts.shared);
            prop_assert_eq!(again.local, parts.local);
        }
    }
}

#[test]
fn a_peering_that_would_get_lost_is_refused() {
    let running = split(WHOLE, Some(&key())).unwrap();
    let became = |given: &str| {
        let parts = split(given, None).unwrap();
        let local = parts.local.over(&running.local);
        let whole = merge(&parts.shared, &local).unwrap();
        check_peering(&parts.shared, &split(&whole, Some(&key())).unwrap().shared)
    };
    let pools = "pools: []\nvips: []\n";
    for (peering, refused) in [
        ("", false),
        ("group:\n  peering:\n    heartbeat: 20ms\n", false),
        ("group:\n  peering:\n    pki: elsewhere\n", false),
        ("group:\n  peering:\n    heartbeat: 50ms\n", true),
        (
            "group:\n  peering:\n    heartbeat: 20ms\n    withdraw_after: 2m\n",
            true,
        ),
    ] {
        let given = format!("{peering}{pools}");
        assert_eq!(became(&given) == Err(TextError::Peering), refused, "{given}");
    }
    let own = WHOLE.replace("20ms", "50ms");
    assert_eq!(became(&own), Ok(()), "a whole file may");
}
