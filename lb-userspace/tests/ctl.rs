//! `lbctl` where it needs neither root nor maps: what it writes, and how it exits.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Exit code, stdout and stderr.
fn lbctl(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lbctl"))
        .args(args)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output()
        .expect("lbctl starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let code = output.status.code().expect("not killed");
    (code, text(output.stdout), text(output.stderr))
}

fn json(args: &[&str]) -> (i32, Value) {
    let (code, out, err) = lbctl(&[args, &["--output", "json"]].concat());
    let value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}\n{out}\n{err}"));
    (code, value)
}

#[test]
fn check_takes_a_valid_file() {
    let (code, out, err) = lbctl(&["config", "check", "dist/lb.example.yaml"]);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, "dist/lb.example.yaml: valid\n", "")
    );
    let (code, value) = json(&["config", "check", "dist/lb.example.yaml"]);
    assert_eq!(
        (code, &value["valid"], &value["pools"]),
        (0, &Value::Bool(true), &Value::from(2))
    );
}

#[test]
fn check_refuses_with_every_problem() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lb.yaml");
    fs::write(
        &file,
        "node: {name: lb1, interfaces: [eth0], attach: natve}\ncapacity: {pools: 0}\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let (code, out, err) = lbctl(&["config", "check", file]);
    assert_eq!((code, err.as_str()), (1, ""));
    assert!(out.contains("lb.yaml:1:47: node.attach:"), "{out}");
    assert!(out.contains("capacity.pools"), "{out}");
    let (code, value) = json(&["config", "check", file]);
    let problems = value["problems"].as_array().unwrap();
    assert_eq!(
        (code, problems.len(), &value["valid"]),
        (1, 2, &Value::Bool(false))
    );
    assert_eq!(
        (&problems[0]["line"], &problems[0]["field"]),
        (&1.into(), &"node.attach".into())
    );
}

/// What `lbctl config check` says of a file, `lbd --check` says too.
#[test]
fn check_agrees_with_the_agent() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config");
    for (name, want) in [("accepted/minimal.yaml", 0), ("refused/weights.yaml", 1)] {
        let file = folder.join(name);
        let (code, out, _) = lbctl(&["config", "check", file.to_str().unwrap()]);
        let mut agent = Command::new(env!("CARGO_BIN_EXE_lbd"));
        let agent = agent.arg("--check").arg("--config").arg(&file).output().unwrap();
        assert_eq!((code, agent.status.code()), (want, Some(want)), "{name}");
        assert_eq!(out.as_bytes(), agent.stderr, "{name}");
    }
}

/// What all nodes share is cut out of the text, so braces are refused where nodes talk, and nowhere else.
#[test]
fn a_group_that_talks_is_written_in_blocks() {
    let file = |folder: &Path, text: &str| {
        let file = folder.join("lb.yaml");
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let folder = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/accepted");
    let text = std::fs::read_to_string(fixtures.join("peering.yaml")).unwrap();
    let (code, out, _) = lbctl(&["config", "check", &file(folder.path(), &text)]);
    assert!(code == 1 && out.contains("write `peering` as a block"), "{out}");
    let text = text.replace("{pki: pki, heartbeat: 20ms, dead_after: 60ms}", "\n    pki: pki");
    assert_eq!(lbctl(&["config", "check", &file(folder.path(), &text)]).0, 0);
    let value: serde_json::Value = serde_yaml::from_str(&text).unwrap();
    let (code, out, _) = lbctl(&["config", "check", &file(folder.path(), &value.to_string())]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("line 1: no section begins here"), "{out}");
    let lone = std::fs::read_to_string(fixtures.join("minimal-json.yaml")).unwrap();
    assert_eq!(lbctl(&["config", "check", &file(folder.path(), &lone)]).0, 0);
}

#[test]
fn check_of_what_can_not_be_read_is_an_error() {
    for file in ["nowhere.yaml", "dist"] {
        let (code, out, err) = lbctl(&["config", "check", file]);
        assert_eq!((code, out.as_str()), (2, ""), "{file}");
        assert!(err.contains(file), "{err}");
    }
    assert_eq!(lbctl(&["config", "check"]).0, 2);
}

#[test]
fn schema_is_the_one_in_the_docs() {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.schema.json");
    let (code, out, _) = lbctl(&["config", "schema"]);
    assert_eq!((code, out), (0, fs::read_to_string(committed).unwrap()));
}

#[test]
fn explain_says_what_a_field_is() {
    let (code, out, _) = lbctl(&["config", "explain", "pools.backends.weight"]);
    let want = "pools.backends.weight\n  \
                The share of new flows, relative to the others' weights; 0 takes none.\n\n  \
                type     integer\n  default  1\n  values   0 to 65535\n";
    assert_eq!((code, out.as_str()), (0, want));
    let (_, out, _) = lbctl(&["config", "explain", "group"]);
    assert!(out.contains("fields   nodes, key, key_file"), "{out}");
    let (_, out, _) = lbctl(&["config", "explain", "vips[0].protocol"]);
    assert!(out.contains("default  none, it is required"), "{out}");
    let (code, value) = json(&["config", "explain", "capacity.vips"]);
    assert_eq!(
        (code, &value["default"], &value["type"]),
        (0, &"512".into(), &"integer".into())
    );
}

#[test]
fn explain_of_no_field_lists_all_and_of_a_wrong_one_those_that_may_be_meant() {
    let (code, out, _) = lbctl(&["config", "explain"]);
    assert_eq!(code, 0);
    assert!(
        out.lines()
            .any(|line| line.starts_with("node.interfaces ") && line.contains("(required)")),
        "{out}"
    );
    let (code, out, err) = lbctl(&["config", "explain", "pools.backends.wight"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("did you mean pools.backends.weight?"), "{err}");
    let (code, _, err) = lbctl(&["config", "explain", "zebra"]);
    assert!(code == 2 && err.contains("lists all"), "{err}");
}

/// What is wrong with a packet is told before anything is asked of the kernel.
#[test]
fn trace_refuses_what_is_no_packet() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let text = file("text", b"not a capture");
    // A header of a file without packets: version 2.4, Ethernet.
    let empty = [
        &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0][..],
        &[0; 10],
        &[4, 0, 1, 0, 0, 0],
    ]
    .concat();
    let empty = file("empty", &empty);
    let flow = |to| vec!["--from", "192.0.2.1:40000", "--to", to];
    let v4 = flow("203.0.113.1:80");
    for (args, words) in [
        (flow("[2001:db8::1]:80"), "are of different families"),
        (
            [&v4[..], &["--protocol", "udp", "--syn"]].concat(),
            "UDP has no SYN",
        ),
        (
            [&v4[..], &["--payload", "70000"]].concat(),
            "70000 bytes of payload",
        ),
        (
            [&v4[..], &["--payload", "3467"]].concat(),
            "a frame of 3521 bytes",
        ),
        ([&v4[..], &["--hex", "00"]].concat(), "cannot be used with"),
        ([&v4[..], &["--packet", "2"]].concat(), "cannot be used with"),
        (vec!["--hex", "00", "--syn"], "cannot be used with"),
        (vec![], "<--from <A:P>|--file <FILE>|--hex <BYTES>>"),
        (vec!["--from", "192.0.2.1:1"], "--to"),
        (
            vec!["--from", "192.0.2.1", "--to", "203.0.113.1:80"],
            "invalid socket address",
        ),
        (vec!["--hex", "00 0"], "half a byte"),
        (vec!["--hex", "xy"], "'x' is no hexadecimal digit"),
        (vec!["--hex", "00"], "a frame of 1 bytes"),
        (vec!["--file", &text], "neither pcap nor pcapng"),
        (vec!["--file", &empty], "no packet 1: the file has 0"),
        (vec!["--file", "nowhere.pcap"], "nowhere.pcap: No such file"),
        (v4.clone(), "nothing is loaded under /nowhere"),
    ] {
        let (code, out, err) = lbctl(&[&["--pin-root", "/nowhere", "trace"], &args[..]].concat());
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(err.contains(words), "{args:?}: {err}");
    }
}

#[test]
fn completion_knows_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, out, _) = lbctl(&["completion", shell]);
        assert_eq!(code, 0, "{shell}");
        for word in ["lbctl", "decap", "explain", "pin-root"] {
            assert!(out.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(lbctl(&["completion", "tcsh"]).0, 2);
}

/// In bash itself: after `lbctl config ex`, Tab gives `explain`.
#[test]
fn completion_works_in_bash() {
    let script = r#"eval "$1"; COMP_WORDS=(lbctl config ex); COMP_CWORD=2; _lbctl lbctl ex config; echo "${COMPREPLY[@]}""#;
    let (_, completion, _) = lbctl(&["completion", "bash"]);
    let bash = Command::new("bash")
        .args(["--norc", "-c", script, "bash", &completion])
        .stderr(Stdio::inherit())
        .output();
    let out = bash.expect("bash starts").stdout;
    assert_eq!(String::from_utf8_lossy(&out), "explain\n");
}

#[test]
fn options_that_need_others_or_exclude_them() {
    for args in [
        &["ring", "--slot", "5"][..],
        &["ring", "--by-backend"],
        &["ring", "web", "--slot", "65536"],
        &["ring", "web", "--slot", "5", "--by-backend"],
        &["ring", "web", "--tracked", "--slot", "5"],
        &["ring", "--from", "10.0.0.1:5", "--to", "10.0.0.2:80"],
        &["flows", "--from", "10.0.0.1:5"],
        &["flows", "--to", "10.0.0.2:80"],
        &["flows", "--protocol", "udp"],
        &[
            "flows",
            "--from",
            "10.0.0.1:5",
            "--to",
            "10.0.0.2:80",
            "--state",
            "closed",
        ],
        &["flows", "--count", "--limit", "5"],
        &["flows", "--pool", "web", "--backend", "web/be1"],
        &["flows", "--state", "open"],
        &["flows", "--origin", "mine"],
        &["flows", "--vip", "10.0.0.1:80/icmp"],
        &["flows", "--vip", "web"],
        &["flows", "--vip", "10.0.0.1:70000"],
        &["flows", "--backend", "be1"],
        &["flows", "--client", "10.0.0.0/33"],
        &["maps", "--all"],
        &["stats", "--count", "3"],
        &["stats", "--watch", "1", "--count", "0"],
        &["top", "--interval", "0"],
    ] {
        let (code, out, err) = lbctl(args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}");
        assert!(err.contains("--help"), "{args:?}: {err}");
    }
    for text in ["0", "0.09", "86401", "-1", "nan", "inf", "1s", "1e300"] {
        let (code, _, err) = lbctl(&["stats", &format!("--watch={text}")]);
        assert_eq!(code, 2, "{text}");
        assert!(err.contains("from 0.1 to 86400"), "{text}: {err}");
    }
}

/// Commands that read maps say so where there are none, and exit with 1; also those that go on until they are ended.
#[test]
fn nothing_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("nothing");
    let root = root.to_str().unwrap();
    for args in [
        &["ring"][..],
        &["ring", "--tracked"],
        &["flows"],
        &["flows", "--count"],
        &["flows", "--from", "10.0.0.1:5", "--to", "10.0.0.2:80"],
        &["ring", "web", "--slot", "5"],
        &["stats", "--watch"],
        &["stats", "--watch", "0.1", "--count", "2"],
        &["maps"],
        &["maps", "lb_slots"],
        &["maps", "lb_decap_allow"],
    ] {
        let args = [args, &["--pin-root", root]].concat();
        let (code, out, err) = lbctl(&args);
        assert_eq!((code, err.as_str()), (1, ""), "{args:?}");
        assert!(
            out.contains("nothing is loaded under") && out.contains(root),
            "{out}"
        );
        let (code, value) = json(&args);
        assert_eq!((code, &value["loaded"]), (1, &Value::Bool(false)), "{args:?}");
    }
}

#[test]
fn top_needs_a_terminal() {
    for args in [&["top"][..], &["top", "--output", "json"]] {
        let (code, out, err) = lbctl(args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}");
        assert!(err.contains("`lbctl stats --watch`"), "{err}");
    }
}

#[test]
fn programs_say_their_own_name() {
    let (code, out, _) = lbctl(&["--version"]);
    assert_eq!((code, out), (0, format!("lbctl {}\n", env!("CARGO_PKG_VERSION"))));
}

/// A reader that leaves early, such as `head`, is no failure.
#[test]
fn a_broken_pipe_is_success() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lbctl"))
        .args(["config", "schema"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
