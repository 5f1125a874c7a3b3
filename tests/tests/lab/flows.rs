//! `lbctl flows`: what stands in the flow table, told without an agent.

use std::net::SocketAddr;

use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::flow::{Entry, Key};
use lb_common::hash;
use lb_common::slot::{Slot, TRACKED, of_hash};
use lb_common::tick::{Tick, seconds};
use lb_tests::host::Node;
use lb_tests::{Lab, LabError};
use lb_userspace::dataplane::flows::{Table, now};
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pin::Root;
use serde_json::{Value, json};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The lab's VIPs for HTTP and for echoes.
const WEB: &str = "10.200.1.1:80";
const ECHO: &str = "10.200.1.1:7";

/// A node whose agent is dead, and its maps.
struct Still<'n> {
    node: &'n Node,
    maps: Maps,
}

fn with_maps(name: &str, job: impl FnOnce(&mut Still<'_>) -> Result<(), LabError>) {
    let run = |lab: &mut Lab| {
        // An agent would sweep what it didn't enter itself.
        lab.node(0).kill9()?;
        let node: &Node = lab.node(0);
        let maps = Maps::open(&Root::new(node.pin_root())).expect("its maps");
        job(&mut Still { node, maps })
    };
    Lab::builder(name).nodes(1).run(run).expect("the lab runs");
}

fn key(client: &str, vip: &str, proto: u8) -> Key {
    let end = |text: &str| text.parse::<SocketAddr>().expect("a socket address");
    let (client, vip) = (end(client), end(vip));
    Key {
        src: Addr::from(client.ip()),
        dst: Addr::from(vip.ip()),
        sport: Be16::new(client.port()),
        dport: Be16::new(vip.port()),
        proto,
        pad: [0; 3],
    }
}

fn ago(secs: u32) -> Tick {
    Tick(now().0.wrapping_sub(seconds(secs)))
}

impl Still<'_> {
    fn index(&self, pool: &str, name: &str) -> u16 {
        let all = self.node.lbctl_json(&["backends"]).expect("an answer");
        let mut rows = all["backends"].as_array().expect("a list").iter();
        let row = rows.find(|row| row["pool"] == pool && row["name"] == name);
        let index = row.and_then(|row| row["index"].as_u64()).expect("an index");
        u16::try_from(index).expect("16 bits")
    }

    fn put(&mut self, table: Table, key: &Key, entry: Entry) {
        self.maps.set_entry(table, key, &entry).expect("there is room");
    }

    fn json(&self, args: &[&str]) -> Value {
        let args = [&["flows"], args].concat();
        self.node.lbctl_json(&args).expect("an answer")
    }

    fn text(&self, args: &[&str]) -> String {
        let args = [&["flows"], args].concat();
        let out = self.node.lbctl(&args).expect("it runs");
        assert_eq!(out.status.code(), Some(0), "{args:?}: {out:?}");
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    /// Clients of the flows that are listed.
    fn clients(&self, args: &[&str]) -> Vec<String> {
        let listed = self.json(args);
        let rows = listed["flows"].as_array().expect("a list");
        let client = |row: &Value| row["client"].as_str().expect("a text").to_owned();
        rows.iter().map(client).collect()
    }

    /// One flow of each kind: at `web4/be1`, `web4/be2`, `web6/be1`, and at a backend that nobody knows.
    fn fill(&mut self) {
        let [be1, be2] = ["be1", "be2"].map(|name| self.index("web4", name));
        let v6 = self.index("web6", "be1");
        let seen = ago(10);
        let open = |backend| Entry {
            last: ago(2),
            ..Entry::probation(backend, 5, ago(20)).confirmed(seen)
        };
        let syn = Entry::probation(be2, 7, seen);
        let peers = Entry {
            owner: 3,
            ..open(be2)
        };
        let of_v6 = key("[2001:db8::9]:1", "[fd00:200:1::1]:80", TCP);
        self.put(Table::Flows, &key("192.0.2.1:1000", WEB, TCP), open(be1));
        self.put(
            Table::Flows,
            &key("192.0.2.2:1000", WEB, TCP),
            open(be2).closed(seen),
        );
        self.put(Table::Flows, &of_v6, open(v6));
        self.put(Table::Flows, &key("198.51.100.1:1", WEB, TCP), open(444));
        self.put(Table::Replicas, &key("192.0.2.3:1000", ECHO, TCP), peers);
        self.put(Table::Probation, &key("192.0.2.4:1000", ECHO, TCP), syn);
        self.put(Table::UdpFlows, &key("192.0.2.5:1000", ECHO, UDP), open(be1));
    }
}

#[test]
fn flows_are_listed_by_what_they_are() {
    with_maps("flows-list", |still| {
        assert_eq!(still.json(&[]), json!({ "flows": [], "more": 0 }));
        assert!(still.text(&[]).starts_with("no flow is in the flow table"));
        still.fill();
        let all = still.json(&[]);
        assert_eq!(all["flows"].as_array().map(Vec::len), Some(7));
        let row = all["flows"].as_array().expect("a list").iter();
        let mut row = row.filter(|row| row["client"] == "192.0.2.3:1000").cloned();
        let mut row = row.next().expect("the replica");
        // A clock of a fifteenth of a second, and however long the commands take.
        for (field, least) in [("age_s", 10.0), ("idle_s", 2.0)] {
            let value = row[field].take().as_f64().expect("seconds");
            assert!((least..least + 30.0).contains(&value), "{field}: {value}");
        }
        let want = json!({
            "client": "192.0.2.3:1000", "vip": ECHO, "protocol": "tcp", "table": "lb_replicas", "backend": "web4/be2",
            "state": "confirmed", "origin": "replica", "owner": 3, "age_s": null, "idle_s": null,
        });
        assert_eq!(row, want);
        let text = still.text(&[]);
        for words in [
            "192.0.2.3:1000 → 10.200.1.1:7/tcp",
            "replica of member 3",
            "#444",
            "[2001:db8::9]:1 → [fd00:200:1::1]:80/tcp",
        ] {
            assert!(text.contains(words), "{words:?} is not in {text}");
        }
        let cut = still.text(&["--limit", "3"]);
        assert!(cut.contains("and 4 more; `--limit N`"), "{cut}");
        let cut = still.json(&["--limit", "3"]);
        assert_eq!(
            (cut["flows"].as_array().map(Vec::len), &cut["more"]),
            (Some(3), &json!(4))
        );
        assert_eq!(still.clients(&["--limit", "0"]).len(), 7);
        Ok(())
    });
}

#[test]
fn filters_take_what_meets_them_all() {
    with_maps("flows-filter", |still| {
        still.fill();
        for (args, want) in [
            (
                &["--vip", WEB][..],
                &["192.0.2.1:1000", "192.0.2.2:1000", "198.51.100.1:1"][..],
            ),
            (&["--vip", "10.200.1.1/udp"], &["192.0.2.5:1000"]),
            (
                &["--vip", "10.200.1.1:7"],
                &["192.0.2.3:1000", "192.0.2.4:1000", "192.0.2.5:1000"],
            ),
            (
                &["--vip", "10.200.1.1:7/tcp"],
                &["192.0.2.3:1000", "192.0.2.4:1000"],
            ),
            (&["--vip", "fd00:200:1::1"], &["[2001:db8::9]:1"]),
            (&["--vip", "10.200.1.2"], &[]),
            (&["--pool", "web6"], &["[2001:db8::9]:1"]),
            (&["--backend", "web4/be1"], &["192.0.2.1:1000", "192.0.2.5:1000"]),
            (&["--backend", "web4/be3"], &[]),
            (&["--client", "192.0.2.2"], &["192.0.2.2:1000"]),
            (&["--client", "198.51.100.0/24"], &["198.51.100.1:1"]),
            (&["--client", "2001:db8::/32"], &["[2001:db8::9]:1"]),
            (&["--state", "closed"], &["192.0.2.2:1000"]),
            (&["--state", "probation"], &["192.0.2.4:1000"]),
            (&["--origin", "replica"], &["192.0.2.3:1000"]),
            (
                &["--origin", "own", "--pool", "web4", "--vip", ECHO],
                &["192.0.2.4:1000", "192.0.2.5:1000"],
            ),
            (&["--origin", "replica", "--state", "closed"], &[]),
        ] {
            assert_eq!(still.clients(args), want, "{args:?}");
        }
        // A backend that nobody knows: its flow belongs to the pool of its VIP.
        let of_pool = still.clients(&["--pool", "web4"]);
        assert!(
            of_pool.contains(&"198.51.100.1:1".to_owned()) && of_pool.len() == 6,
            "{of_pool:?}"
        );
        for (args, words) in [
            (["--pool", "web5"], "there are: web4, web6"),
            (["--backend", "web4/be9"], "there are: be1, be2, be3"),
        ] {
            let out = still.node.lbctl(&[&["flows"], &args[..]].concat())?;
            assert_eq!(out.status.code(), Some(2), "{out:?}");
            assert!(String::from_utf8_lossy(&out.stderr).contains(words), "{out:?}");
        }
        Ok(())
    });
}

#[test]
fn flows_are_counted_by_table_and_state() {
    with_maps("flows-count", |still| {
        still.fill();
        let counted = still.json(&["--count"]);
        let rows = counted["tables"].as_array().expect("a list").clone();
        let row = |name: &str| rows.iter().find(|row| row["table"] == name).cloned().expect(name);
        let room = still.maps.capacity().flows;
        let states = |probation, confirmed, closed| json!({ "probation": probation, "confirmed": confirmed, "closed": closed });
        assert_eq!(
            row("lb_flows"),
            json!({ "table": "lb_flows", "room": room, "entries": 4, "matching": 4, "states": states(0, 3, 1) })
        );
        assert_eq!(row("lb_probation")["states"], states(1, 0, 0));
        assert!(row("lb_udp_new")["room"].as_u64() > Some(0));
        assert_eq!(counted["matching"], 7);
        let some = still.json(&["--count", "--vip", WEB]);
        assert_eq!(
            (&some["matching"], &some["tables"][0]["entries"]),
            (&json!(3), &json!(4))
        );
        assert!(still.text(&["--count"]).contains("MATCHING"));

        let status = still.node.lbctl_json(&["status"])?;
        let table = &status["flow_table"].as_array().expect("a list")[0];
        assert_eq!(*table, json!({ "table": "lb_flows", "entries": 4, "room": room }));
        assert_eq!(status["tracked_slots"], json!({ "tracked": 0, "slots": 131_072 }));
        let out = still.node.lbctl(&["status"])?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(
            text.contains("confirmed 4 (") && text.contains("replicas 1 ("),
            "{text}"
        );
        Ok(())
    });
}

/// Backends to which the next segment and a new SYN of a flow would go, with what decides.
fn decisions(answer: &Value) -> Vec<(String, String)> {
    let word = |row: &Value, field: &str| row[field].as_str().unwrap_or("-").to_owned();
    let rows = answer["decisions"].as_array().expect("a list").iter();
    rows.map(|row| (word(row, "backend"), word(row, "by"))).collect()
}

#[test]
fn one_flow_is_told_with_its_slot_and_where_it_goes() {
    with_maps("flows-one", |still| {
        let [be1, be2, be3] = ["be1", "be2", "be3"].map(|name| still.index("web4", name));
        let flow = key("192.0.2.9:4321", WEB, TCP);
        let group_key = still.maps.meta().expect("facts").group_key;
        let number = of_hash(flow.tuple().hash(&hash::Key::expand(&group_key)));
        let args = ["--from", "192.0.2.9:4321", "--to", WEB];
        let ask = |still: &Still<'_>| still.json(&args);
        let pair = |backend: &str, by: &str| (backend.to_owned(), by.to_owned());

        let plain = ask(still);
        let home = plain["slot"]["current"].as_str().expect("a backend").to_owned();
        assert_eq!(
            (&plain["slot"]["slot"], &plain["entries"]),
            (&json!(number), &json!([]))
        );
        assert_eq!(decisions(&plain), [pair(&home, "slot"), pair(&home, "slot")]);
        assert!(still.text(&args).contains("it has no entry"));

        assert!(still.maps.set_slot(0, number, Slot::new(be2, be1, be3, TRACKED)));
        assert_eq!(
            decisions(&ask(still)),
            [pair("web4/be1", "origin"), pair("web4/be2", "new")]
        );
        // In probation, a segment that follows the SYN counts, and another SYN is refused for a while.
        let syn = Entry::probation(be3, 0xffff_ffff, now());
        still.put(Table::Probation, &flow, syn);
        let told = ask(still);
        assert_eq!(
            decisions(&told),
            [pair("web4/be3", "probation"), pair("web4/be1", "refused")]
        );
        assert_eq!(told["entries"][0]["state"], "probation");
        still.put(Table::Flows, &flow, syn.confirmed(now()));
        still.maps.set_missed(&flow, ago(4)).expect("there is room");
        let told = ask(still);
        assert_eq!(decisions(&told)[0], pair("web4/be3", "own"));
        assert_eq!(told["entries"].as_array().map(Vec::len), Some(2));
        assert!(told["missed_s"].as_f64().is_some_and(|ago| ago >= 4.0), "{told}");
        let text = still.text(&args);
        for words in [
            "192.0.2.9:4321 → 10.200.1.1:80/tcp is a flow of 10.200.1.1:80/tcp, pool web4",
            "new flows go to web4/be2, those without an entry to web4/be1; tracked",
            "its next segment goes to web4/be3, by its entry",
            "a packet that found no entry was noted",
        ] {
            assert!(text.contains(words), "{words:?} is not in {text}");
        }
        let ring = [&["ring", "web4"], &args[..]].concat();
        let out = still.node.lbctl(&ring)?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(
            text.contains("the slot is tracked, so ask `lbctl flows"),
            "{text}"
        );
        for (to, words) in [
            ("10.200.1.1:81", "10.200.1.1:81/tcp is no VIP"),
            ("[::1]:80", "different families"),
        ] {
            let out = still
                .node
                .lbctl(&["flows", "--from", "192.0.2.9:1", "--to", to])?;
            assert_eq!(out.status.code(), Some(2), "{out:?}");
            assert!(String::from_utf8_lossy(&out.stderr).contains(words), "{out:?}");
        }
        Ok(())
    });
}
