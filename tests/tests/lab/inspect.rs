//! `lbctl ring` and `lbctl maps`: everything by name, and nothing left out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData};
use lb_common::abi::map;
use lb_common::slot::SLOTS;
use lb_tests::host::Node;
use lb_tests::{Lab, LabError};
use lb_userspace::dataplane::flows::Table;
use serde_json::{Value, json};

/// A debug build on a busy machine; listing each slot takes far longer.
const QUICK: Duration = Duration::from_secs(2);

fn with_node(name: &str, job: impl FnOnce(&mut Node) -> Result<(), LabError>) {
    Lab::builder(name)
        .nodes(1)
        .run(|lab| job(lab.node(0)))
        .expect("the lab runs");
}

/// The table of a command.
fn table(node: &Node, args: &[&str]) -> Result<String, LabError> {
    let out = node.lbctl(args)?;
    assert_eq!(out.status.code(), Some(0), "{args:?}: {out:?}");
    Ok(String::from_utf8(out.stdout).expect("UTF-8"))
}

fn slots(node: &Node) -> Array<MapData, u64> {
    let data = MapData::from_pin(node.pin_root().join("maps").join(map::SLOTS)).expect("a pin");
    Map::from_map_data(data)
        .and_then(Array::try_from)
        .expect("an array")
}

/// Slots by the runs `0-3,7` of all of these rows, with the row's name; no slot may be in two.
fn spread<'a>(rows: impl IntoIterator<Item = (&'a str, &'a str)>) -> BTreeMap<u64, &'a str> {
    let mut held = BTreeMap::new();
    for (name, ranges) in rows {
        for range in ranges.split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| text.parse::<u64>().expect("a number");
            for slot in number(first)..=number(last) {
                assert_eq!(held.insert(slot, name), None, "slot {slot}");
            }
        }
    }
    held
}

#[test]
fn rings_slot_by_slot() {
    with_node("rings", |node| {
        let pools = node.lbctl_json(&["ring"])?;
        let row =
            |pool: &str| json!({ "pool": pool, "slots": SLOTS, "backends": 3, "tracked": 0, "empty": 0 });
        assert_eq!(pools["pools"], json!([row("web4"), row("web6")]));
        assert!(table(node, &["ring"])?.contains("web4  65536         3        0      0"));

        let by_backend = node.lbctl_json(&["ring", "web4", "--by-backend"])?;
        let rows = by_backend["backends"].as_array().expect("a list");
        let text = |row: &'_ Value, field: &str| row[field].as_str().expect("a text").to_owned();
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (text(row, "backend"), text(row, "ranges")))
            .collect();
        let held = spread(rows.iter().map(|(name, ranges)| (name.as_str(), ranges.as_str())));
        assert_eq!(held.len(), SLOTS);
        for slot in [0, 1, 777, 65_535] {
            let one = node.lbctl_json(&["ring", "web4", "--slot", &slot.to_string()])?;
            assert_eq!(
                (&one["current"], &one["origin"]),
                (&json!(held[&slot]), &json!(held[&slot]))
            );
            assert_eq!(
                (&one["previous"], &one["tracked"], &one["flags"]),
                (&Value::Null, &json!(false), &json!([]))
            );
        }
        let be2 = node.lbctl_json(&["ring", "web4", "--by-backend", "be2"])?;
        assert_eq!(be2["backends"].as_array().map(Vec::len), Some(1));
        assert_eq!(be2["backends"][0]["ranges"], json!(rows[1].1));
        for (args, words) in [
            (
                &["ring", "web4", "--by-backend", "be9"][..],
                "there are: be1, be2, be3",
            ),
            (&["ring", "web5"], "there are: web4, web6"),
            (&["maps", "lb_vip"], "lb_decap_allow"),
        ] {
            let out = node.lbctl(args)?;
            assert_eq!(out.status.code(), Some(2), "{out:?}");
            assert!(String::from_utf8_lossy(&out.stderr).contains(words), "{out:?}");
        }
        Ok(())
    });
}

#[test]
fn tracked_slots_are_told_with_their_flags() {
    with_node("tracked", |node| {
        assert!(table(node, &["ring", "--tracked"])?.starts_with("no slot is tracked"));
        let web4 = node.lbctl_json(&["backends"])?;
        let index = |name: &str| {
            let rows = web4["backends"].as_array().expect("a list").iter();
            let mut of_web4 = rows.filter(|row| row["pool"] == "web4" && row["name"] == name);
            of_web4
                .next()
                .and_then(|row| row["index"].as_u64())
                .expect("an index")
        };
        // An agent would put right what it didn't do itself.
        node.kill9()?;
        // What a change leaves in slots 5 to 7, and a backend that nobody knows in slot 9.
        let mut map = slots(node);
        let tracked = index("be2") | index("be1") << 16 | index("be3") << 32 | 1 << 48;
        for slot in 5..8 {
            map.set(slot, tracked, 0).expect("a slot");
        }
        map.set(9, tracked & !0xffff | 444 | 2 << 48, 0).expect("a slot");

        let one = node.lbctl_json(&["ring", "web4", "--slot", "6"])?;
        let want = json!({ "current": "be2", "origin": "be1", "previous": "be3", "flags": ["tracked"],
                           "pool": "web4", "slot": 6, "tracked": true, "raw": format!("{tracked:#018x}"), "why": null });
        assert_eq!(one, want);
        let document = node.lbctl_json(&["ring", "--tracked"])?;
        let listed = document["tracked"].clone();
        assert_eq!(
            (&document["agent"], &document["slots"]),
            (&json!(false), &Value::Null)
        );
        let counted = document["pools"].as_array().expect("a list").iter();
        let counted: Vec<_> = counted
            .map(|pool| (&pool["pool"], &pool["tracked"], &pool["reasons"]))
            .collect();
        let want = [
            (&json!("web4"), &json!(4), &Value::Null),
            (&json!("web6"), &json!(0), &Value::Null),
        ];
        assert_eq!(counted, want);
        let row = |current: &str, flags: Value, slots: u8, ranges: &str| {
            json!({ "current": current, "origin": "be1", "previous": "be3", "flags": flags, "pool": "web4",
                    "slots": slots, "ranges": ranges, "why": null })
        };
        let want = [
            row("be2", json!(["tracked"]), 3, "5-7"),
            row("#444", json!(["tracked", "closing"]), 1, "9"),
        ];
        assert_eq!(listed, json!(want));
        let shown = table(node, &["ring", "web4", "--tracked"])?;
        assert!(
            shown.contains("tracked, closing") && shown.contains("5-7"),
            "{shown}"
        );
        for words in [
            "web4: 4 of 65536 slots are tracked (0.01 %)",
            "why they are tracked the agent alone knows: no agent answers",
        ] {
            assert!(shown.contains(words), "{shown}");
        }
        assert!(table(node, &["status"])?.contains("4 of 131072 (0.00 %)"));
        assert_eq!(
            node.lbctl_json(&["ring", "web6", "--tracked"])?["tracked"],
            json!([])
        );
        assert_eq!(node.lbctl_json(&["ring"])?["pools"][0]["tracked"], 4);
        assert!(table(node, &["ring", "web4"])?.contains("4 slots are tracked"));
        Ok(())
    });
}

#[test]
fn every_map_is_told_by_name() {
    with_node("maps", |node| {
        for name in map::ALL {
            let document = node.lbctl_json(&["maps", name])?;
            let entries = document["entries"].as_array().expect("a list");
            // No traffic came, and no event can be read twice.
            let may_be_empty = name == map::EVENTS || name == map::MISSES || name == map::USES;
            let may_be_empty = may_be_empty || Table::of_name(name).is_some();
            assert!(may_be_empty || !entries.is_empty(), "{name}");
            for entry in entries {
                assert!(
                    entry["key"].is_object() && entry["value"].is_object(),
                    "{name}: {entry}"
                );
            }
            let lines = table(node, &["maps", name])?.lines().count();
            // Titles and entries, or that there are none.
            let want = if entries.is_empty() { 1 } else { entries.len() + 1 };
            assert_eq!(lines, want, "{name}");
        }
        let entry = |name: &str, index: usize| {
            Ok::<_, LabError>(node.lbctl_json(&["maps", name])?["entries"][index].clone())
        };
        // Indexes are given out in the order of stable identities.
        let index = node.lbctl_json(&["backends"])?["backends"][0]["index"]
            .as_u64()
            .expect("an index");
        let place = usize::try_from(index).expect("small") - 1;
        let backend = entry("lb_backends", place)?;
        assert_eq!(backend["key"], json!({ "index": index, "backend": "be1" }));
        assert_eq!(backend["value"]["flags"], json!(["ready"]));
        assert_eq!(backend["value"]["interface"], "eth0");
        assert_eq!(backend["value"]["dst"], "10.9.21.2");
        let vips = node.lbctl_json(&["maps", "lb_vips"])?.to_string();
        assert!(
            vips.contains(r#""vip":"10.200.1.1:80/tcp""#) && vips.contains(r#""pool":"web4""#),
            "{vips}"
        );
        let mark = json!({ "key": { "vip": "10.200.1.1:any/tcp" }, "value": { "pool": null, "index": null, "flags": [] } });
        assert!(vips.contains(&mark.to_string()), "{vips}");
        assert_eq!(
            entry("lb_stops", 4)?["key"],
            json!({ "index": 4, "reason": "not_vip" })
        );
        assert_eq!(entry("lb_meta", 0)?["value"]["group_key"], "masked");
        Ok(())
    });
}

#[test]
fn slots_are_listed_in_short_and_in_full() {
    with_node("maps-slots", |node| {
        let start = Instant::now();
        let out = node.lbctl(&["--output", "json", "maps", "lb_slots"])?;
        let took = start.elapsed();
        assert!(
            took < QUICK && out.stdout.len() < 2_000_000,
            "{took:?}, {} bytes",
            out.stdout.len()
        );
        let short: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        let entries = short["entries"].as_array().expect("a list");
        let of_pool = entries.iter().filter(|entry| entry["key"]["pool"] == "web6");
        let rows = of_pool.map(|entry| {
            let value = &entry["value"];
            (
                value["current"].as_str().expect("a name"),
                value["slots"].as_str().expect("slots"),
            )
        });
        let held = spread(rows);
        assert_eq!(held.len(), SLOTS);
        let full = node.lbctl_json(&["maps", "lb_slots", "--all"])?;
        let full = full["entries"].as_array().expect("a list");
        assert_eq!(full.len(), 2 * SLOTS);
        for entry in full.iter().filter(|entry| entry["key"]["pool"] == "web6") {
            let slot = entry["key"]["slot"].as_u64().expect("a number");
            assert_eq!(entry["value"]["current"], held[&slot], "{entry}");
        }
        Ok(())
    });
}
