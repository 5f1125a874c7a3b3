//! What an agent takes over, what it refuses, and what it needs to be allowed to do.

use std::fs;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData};
use lb_common::abi::map;
use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::info::Meta;
use lb_common::vip;
use lb_tests::host::Node;
use lb_tests::process::Process;
use lb_tests::{Lab, LabError, binary, command};
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pin::Root;
use lb_userspace::state::diff::Op;
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(20);

/// Runs a lab of one node and no traffic.
fn with_node(name: &str, job: impl FnOnce(&mut Node) -> Result<(), LabError>) {
    Lab::builder(name)
        .nodes(1)
        .run(|lab| job(lab.node(0)))
        .expect("the lab runs");
}

/// The node's configuration with more text, in a file of its own.
fn config(dir: &tempfile::TempDir, yaml: &str) -> PathBuf {
    let path = dir.path().join("lb.yaml");
    fs::write(&path, yaml).expect("a file is written");
    path
}

/// `lbd` over the node's pins, inside its namespace; `under` runs it.
fn lbd(node: &Node, under: &[&str], yaml: &str, dir: &tempfile::TempDir) -> Command {
    let program = binary::find("lbd").expect("lbd is built");
    let mut command = match under {
        [] => node.namespace().command(program),
        [first, rest @ ..] => {
            let mut command = node.namespace().command(first);
            command.args(rest).arg(program);
            command
        }
    };
    command.arg("--config").arg(config(dir, yaml));
    command.arg("--pin-root").arg(node.pin_root());
    command.arg("--state-dir").arg(dir.path().join("state"));
    command.args(["--api-socket", "none"]);
    command
}

/// Starts another `lbd`, which must refuse with these words.
fn refused(node: &Node, yaml: &str, words: &str) -> Result<(), LabError> {
    let dir = tempfile::tempdir().expect("a folder");
    // One that starts after all must not run for ever.
    let out = command::output(&mut lbd(node, &["timeout", "20"], yaml, &dir))?;
    says(&out, 1, words);
    Ok(())
}

fn says(out: &Output, code: i32, words: &str) {
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(words), "{stderr}");
}

fn says_ready(node: &Node, code: i32, words: &str) -> Result<(), LabError> {
    let out = node.lbctl(&["ready"])?;
    let said = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(code), "{said}");
    assert!(said.starts_with(words), "{said}");
    Ok(())
}

fn yaml(node: &Node) -> Result<String, LabError> {
    node.config().to_yaml()
}

/// Interfaces of the node's namespace that have an XDP program, as the kernel says.
fn with_xdp(node: &Node) -> Result<Vec<String>, LabError> {
    let links = command::check(node.namespace().command("ip").args(["-json", "link"]))?;
    let links: serde_json::Value = serde_json::from_str(&links).expect("ip writes JSON");
    let names = links.as_array().expect("a list").iter();
    let attached = names.filter(|link| link["xdp"]["prog"]["id"].is_u64());
    Ok(attached
        .map(|l| l["ifname"].as_str().expect("a name").to_owned())
        .collect())
}

/// Waits for what [`with_xdp`] shall be: the kernel detaches a moment after a link's pin is gone.
fn wait_xdp(node: &Node, wanted: &[&str]) -> Result<(), LabError> {
    let attached = || with_xdp(node).map(|names| names == wanted);
    lb_tests::wait::until_ok(SOON, &format!("XDP on {wanted:?} alone"), attached)
}

#[test]
fn a_restarted_agent_takes_over_and_writes_no_slot() {
    with_node("restart", |node| {
        let slots = node.lbctl_json(&["maps", "lb_slots"])?;
        let mark = node.log().len();
        node.kill9()?;
        assert_eq!(node.lbctl_json(&["status"])?["agent"], "dead");
        assert_eq!(with_xdp(node)?, ["eth0"]);
        node.start()?;
        let log = node.log()[mark..].to_owned();
        assert!(log.contains("took over the running data plane"), "{log}");
        let written = log.lines().filter(|line| line.contains("data plane updated"));
        let moved: Vec<&str> = written.filter(|line| !line.ends_with("slots=0")).collect();
        assert!(moved.is_empty(), "{moved:?}");
        assert_eq!(node.lbctl_json(&["maps", "lb_slots"])?, slots);
        Ok(())
    });
}

#[test]
fn a_second_agent_is_refused() {
    with_node("second-agent", |node| {
        refused(node, &yaml(node)?, "another lbd is running over")?;
        // The same over pins that were adopted and not made.
        node.stop()?;
        node.start()?;
        refused(node, &yaml(node)?, "another lbd is running over")?;
        says(&node.lbctl(&["detach"])?, 2, "lbd is running over");
        assert_eq!(node.lbctl_json(&["status"])?["agent"], "alive");
        assert_eq!(with_xdp(node)?, ["eth0"]);
        Ok(())
    });
}

#[test]
fn another_key_and_other_capacities_are_refused() {
    with_node("fixed", |node| {
        let slots = node.lbctl_json(&["maps", "lb_slots"])?;
        let mut other = node.config().clone();
        other.group.key = "ffeeddccbbaa99887766554433221100".to_owned();
        let other_key = other.to_yaml()?;
        let other_capacity = format!("{}capacity: {{pools: 65}}\n", yaml(node)?);
        for (yaml, words) in [
            (&other_key, "`group.key` can't be changed by a reload"),
            (&other_capacity, "`capacity` is fixed while the data plane lives"),
        ] {
            let mark = node.reload(yaml)?;
            node.wait_log(words, mark, SOON)?;
        }
        node.write_config(&yaml(node)?)?;
        node.stop()?;
        refused(node, &other_key, "the group key differs")?;
        refused(node, &other_capacity, "set `capacity` back")?;
        assert_eq!(node.lbctl_json(&["maps", "lb_slots"])?, slots);
        assert_eq!(with_xdp(node)?, ["eth0"]);
        node.start()?;
        let log = node.log();
        assert!(!log.contains(&other.group.key) && !log.contains(&node.config().group.key));
        Ok(())
    });
}

#[test]
fn three_capabilities_are_enough() {
    const ONLY: &str = "-all,+bpf,+net_admin,+perfmon";
    let under = [
        "setpriv",
        "--no-new-privs",
        "--bounding-set",
        ONLY,
        "--inh-caps",
        ONLY,
    ];
    with_node("capabilities", |node| {
        node.stop()?;
        says(&node.lbctl(&["detach"])?, 0, "");
        wait_xdp(node, &[])?;
        let dir = tempfile::tempdir().expect("a folder");
        for (round, words) in ["loaded a new data plane", "took over the running data plane"]
            .into_iter()
            .enumerate()
        {
            let command = lbd(node, &under, &yaml(node)?, &dir);
            let mut agent = Process::spawn("lbd", command, &dir.path().join(format!("log{round}")))?;
            agent.wait_ready("boot: ready", SOON)?;
            assert!(agent.log().contains(words), "{}", agent.log());
            let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("it runs");
            // CAP_NET_ADMIN 12, CAP_PERFMON 38, CAP_BPF 39.
            let bits = format!("CapEff:\t{:016x}", 1_u64 << 12 | 1 << 38 | 1 << 39);
            assert!(status.contains(&bits), "{status}");
            assert_eq!(with_xdp(node)?, ["eth0"]);
            agent.kill9()?;
        }
        Ok(())
    });
}

/// Says what came to a service manager's socket within a while.
fn told(socket: &UnixDatagram, within: Duration) -> String {
    let until = Instant::now() + within;
    let mut told = String::new();
    while let Some(left) = until
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        socket.set_read_timeout(Some(left)).expect("a socket");
        let mut bytes = [0; 4096];
        if let Ok(length) = socket.recv(&mut bytes) {
            told.push_str(&String::from_utf8_lossy(&bytes[..length]));
            told.push('\n');
        }
    }
    told
}

#[test]
fn the_service_manager_hears_that_the_agent_lives_and_nothing_of_a_stopped_one() {
    with_node("watchdog", |node| {
        node.stop()?;
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let mut command = lbd(node, &[], &yaml(node)?, &dir);
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
        let mut agent = Process::spawn("lbd", command, &dir.path().join("log"))?;
        agent.wait_ready("boot: ready", SOON)?;
        let lives = |told: &str| told.matches("WATCHDOG=1").count();
        let while_it_lives = told(&socket, Duration::from_secs(2));
        assert!(while_it_lives.contains("READY=1"), "{while_it_lives}");
        assert!((5..=12).contains(&lives(&while_it_lives)), "{while_it_lives}");
        agent.signal(Signal::STOP)?;
        // What was sent before.
        told(&socket, Duration::from_millis(100));
        assert_eq!(told(&socket, Duration::from_secs(1)), "");
        agent.signal(Signal::CONT)?;
        assert!(lives(&told(&socket, Duration::from_secs(1))) > 0);
        agent.kill9()?;
        node.start()
    });
}

#[test]
fn broken_pins_are_told_and_touched_by_nobody() {
    with_node("broken-pins", |node| {
        for lost in [map::VIPS, map::META] {
            node.stop()?;
            fs::remove_file(node.pin_root().join("maps").join(lost)).expect("a pin");
            refused(node, &yaml(node)?, "are missing: withdraw this node")?;
            says(&node.lbctl(&["status"])?, 2, "are missing: withdraw this node");
            assert_eq!(with_xdp(node)?, ["eth0"]);
            says(&node.lbctl(&["detach"])?, 0, "");
            wait_xdp(node, &[])?;
            node.start()?;
            assert_eq!(with_xdp(node)?, ["eth0"]);
        }
        Ok(())
    });
}

#[test]
fn maps_of_another_version_are_refused() {
    with_node("abi", |node| {
        node.stop()?;
        set_abi(node, lb_common::abi::ABI_VERSION + 1);
        let needed = lb_common::abi::ABI_VERSION;
        let why = format!("have ABI version {}, this program has {needed}", needed + 1);
        refused(node, &yaml(node)?, &why)?;
        says(&node.lbctl(&["vips"])?, 2, &why);
        assert_eq!(with_xdp(node)?, ["eth0"]);
        set_abi(node, lb_common::abi::ABI_VERSION);
        node.start()
    });
}

fn set_abi(node: &Node, version: u32) {
    let pin = node.pin_root().join("maps").join(map::META);
    let data = Map::from_map_data(MapData::from_pin(pin).expect("a pin")).expect("a map");
    let mut meta: Array<MapData, [u8; size_of::<Meta>()]> = data.try_into().expect("an array");
    let mut bytes = meta.get(&0, 0).expect("an entry");
    bytes[..4].copy_from_slice(&version.to_ne_bytes());
    meta.set(0, bytes, 0).expect("it is written");
}

#[test]
fn interfaces_come_go_and_change_their_mode_by_reload() {
    with_node("interfaces", |node| {
        node.namespace().ip(&[
            "link add extra0 type veth peer name extra1".to_owned(),
            "link set dev extra0 up".to_owned(),
            "link add link extra1 name mv0 type macvlan mode bridge".to_owned(),
        ])?;
        let mut config = node.config().clone();
        for (interfaces, mode, outcome) in [
            (vec!["eth0", "extra0"], "native", "configuration reloaded"),
            (vec!["eth0", "extra0"], "generic", "configuration reloaded"),
            // Native can't be had on mv0, so nothing changes.
            (
                vec!["extra0", "eth0", "mv0"],
                "native",
                "mv0: the driver has no native XDP",
            ),
            (vec!["eth0", "nope0"], "native", "no such interface: nope0"),
            (vec!["eth0"], "native", "configuration reloaded"),
        ] {
            let before = node.lbctl_json(&["status"])?;
            config.node.interfaces = interfaces.iter().map(|&name| name.to_owned()).collect();
            config.node.attach = mode.to_owned();
            let mark = node.reload(&config.to_yaml()?)?;
            node.wait_log(outcome, mark, SOON)?;
            let status = node.lbctl_json(&["status"])?;
            let rows = status["interfaces"].as_array().expect("a list");
            if outcome == "configuration reloaded" {
                assert_eq!(rows.len(), interfaces.len(), "{status}");
                assert!(rows.iter().all(|row| row["mode"] == mode), "{status}");
            } else {
                assert_eq!(status, before);
            }
            let wanted: Vec<&str> = rows
                .iter()
                .map(|row| row["name"].as_str().expect("text"))
                .collect();
            wait_xdp(node, &wanted)?;
        }
        Ok(())
    });
}

#[test]
fn a_failed_start_leaves_no_pins() {
    with_node("failed-start", |node| {
        node.stop()?;
        says(&node.lbctl(&["detach"])?, 0, "");
        let mut config = node.config().clone();
        config.node.interfaces.push("nope0".to_owned());
        refused(node, &config.to_yaml()?, "no such interface: nope0")?;
        assert!(!node.pin_root().exists(), "{} is left", node.pin_root().display());
        says(&node.lbctl(&["status"])?, 1, "");
        says(&node.lbctl(&["detach"])?, 1, "");
        Ok(())
    });
}

#[test]
fn a_forced_detach_keeps_the_lock_of_the_agent() {
    with_node("forced-detach", |node| {
        says_ready(node, 0, "ready")?;
        says(&node.lbctl(&["detach", "--force"])?, 0, "");
        wait_xdp(node, &[])?;
        says_ready(
            node,
            1,
            "not ready: lb_xdp is attached to none of `node.interfaces`",
        )?;
        refused(node, &yaml(node)?, "another lbd is running over")?;
        node.stop()?;
        node.start()?;
        assert_eq!(with_xdp(node)?, ["eth0"]);
        says_ready(node, 0, "ready")?;
        Ok(())
    });
}

#[test]
fn without_attaching_everything_else_is_done() {
    with_node("no-attach", |node| {
        node.stop()?;
        says(&node.lbctl(&["detach"])?, 0, "");
        wait_xdp(node, &[])?;
        let dir = tempfile::tempdir().expect("a folder");
        let mut command = lbd(node, &[], &yaml(node)?, &dir);
        command.arg("--no-attach");
        let mut agent = Process::spawn("lbd", command, &dir.path().join("log"))?;
        agent.wait_ready("boot: ready", SOON)?;
        assert_eq!(with_xdp(node)?, [""; 0]);
        let status = node.lbctl_json(&["status"])?;
        assert_eq!(
            (&status["agent"], &status["interfaces"]),
            (&"alive".into(), &serde_json::json!([]))
        );
        assert_eq!(
            node.lbctl_json(&["vips"])?["vips"].as_array().map(Vec::len),
            Some(6)
        );
        let shares = node.lbctl_json(&["ring", "web4"])?;
        assert_eq!(shares["empty"], 0, "{shares}");
        assert!(node.pin_root().join("program").exists());
        agent.kill9()
    });
}

#[test]
fn check_reads_and_touches_nothing() {
    with_node("check", |node| {
        let dir = tempfile::tempdir().expect("a folder");
        let check = |yaml: &str| command::output(lbd(node, &[], yaml, &dir).arg("--check"));
        says(&check(&yaml(node)?)?, 0, "valid");
        let broken = yaml(node)?.replace("pool: web4", "pool: wbe4");
        says(&check(&broken)?, 1, "did you mean");
        assert_eq!(node.lbctl_json(&["status"])?["agent"], "alive");
        Ok(())
    });
}

/// Fills the bucket of a key with what nobody asked for, so that the key can't be written.
fn fill_bucket(node: &Node, wanted: &vip::Key) {
    let root = Root::new(node.pin_root());
    let mut maps = Maps::open(&root).expect("its maps");
    let shift = vip::shift(vip::cells(maps.capacity().vips));
    let bucket = |key: &vip::Key| vip::bucket(key.hash(), shift);
    // Where twenty others find no place the wanted one finds none.
    let refused = (0..)
        .map(|i| vip::Key::new(Addr::v4(i), Be16::new(1), 6))
        .filter(|key| bucket(key) == bucket(wanted))
        .map(|key| Op::SetVip {
            key,
            value: vip::Value::default(),
            new: false,
        })
        .filter(|junk| {
            maps.settle();
            maps.apply(junk).is_err()
        });
    assert_eq!(refused.take(20).count(), 20);
}

#[test]
fn a_reload_that_fails_half_way_is_taken_back() {
    with_node("half-way", |node| {
        let facts = |node: &Node| -> Result<_, LabError> {
            let backends = node.lbctl_json(&["maps", "lb_be_info"])?;
            let generation = node.lbctl_json(&["status"])?["generation"].clone();
            Ok((node.lbctl_json(&["maps", "lb_vips"])?, backends, generation))
        };
        let before = facts(node)?;
        let vip = "10.200.1.1".parse::<IpAddr>().expect("an address");
        fill_bucket(node, &vip::Key::new(vip.into(), Be16::new(8080), 6));
        // Weights and interfaces could be changed, the VIP can't.
        let other = yaml(node)?
            .replace("port: 80", "port: 8080")
            .replace("weight: 3", "weight: 5");
        let mark = node.reload(&other)?;
        node.wait_log("configuration refused, the running one stays", mark, SOON)?;
        assert_eq!(facts(node)?, before);
        assert_eq!(with_xdp(node)?, ["eth0"]);
        // With the junk gone the same file is fine.
        let mark = node.reload(&other)?;
        node.wait_log("configuration reloaded", mark, SOON)?;
        assert_ne!(facts(node)?, before);
        Ok(())
    });
}
