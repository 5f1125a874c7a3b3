//! `config::load` and `config::parse` over files.
//!
//! `fixtures/config/refused/NAME.yaml` must be refused with exactly the text of `NAME.txt`; with
//! `UPDATE_GOLDENS=1` that text is written instead, to be read before it is committed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lb_userspace::config::{self, Error, KeyFileError, What};
use lb_userspace::model::health::Probe;
use lb_userspace::model::{Attach, Capacity, KeyError, Model, Peering, Protocol, Tunnel, Via};

const NODE: &str = "node: {name: lb1, interfaces: [eth0]}\n";
const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

fn fixtures(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/config")
        .join(folder);
    let entries = fs::read_dir(folder).expect("the fixtures are there");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("a folder that can be read").path())
        .collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(!files.is_empty());
    files
}

fn parse(text: &str) -> Result<Model, Error> {
    config::parse(text, Path::new("lb.yaml"))
}

fn refused(text: &str) -> Error {
    parse(text).expect_err("must be refused")
}

fn only(error: &Error) -> &What {
    assert_eq!(error.problems.len(), 1, "{error}");
    &error.problems[0].what
}

#[test]
fn refused_files_are_refused_with_these_words() {
    let update = std::env::var_os("UPDATE_GOLDENS").is_some();
    let mut differ = Vec::new();
    for file in fixtures("refused") {
        let text = format!("{}\n", refused(&fs::read_to_string(&file).unwrap()));
        let golden = file.with_extension("txt");
        if update {
            fs::write(&golden, &text).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != text {
            differ.push(format!("{}:\n{text}", golden.display()));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn accepted_files_are_accepted() {
    for file in fixtures("accepted") {
        let model = config::load(&file).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(model.path, file);
        assert_eq!(model.node.interfaces, ["eth0"]);
    }
}

#[test]
fn tunnels_by_default_and_as_told() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/accepted/gue.yaml");
    let model = config::load(&file).unwrap();
    let tunnels: Vec<Tunnel> = model.pools.iter().map(|pool| pool.tunnel).collect();
    let gue = |port, second_chance| Tunnel::Gue { port, second_chance };
    assert_eq!(tunnels, [gue(6080, true), gue(65_535, false), Tunnel::Ipip]);
}

#[test]
fn the_example_is_accepted_and_read_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/lb.example.yaml");
    let model = config::load(&path).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(model.node.attach, Attach::Auto);
    assert_eq!(model.group.nodes.len(), 2);
    let peering = model.group.peering.unwrap();
    let addresses: Vec<String> = peering.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.65:7946", "192.0.2.66:7946"]);
    assert_eq!(
        (
            peering.heartbeat,
            peering.dead_after,
            peering.withdraw_after,
            peering.join_within
        ),
        (
            Peering::HEARTBEAT,
            Peering::DEAD_AFTER,
            Peering::WITHDRAW_AFTER,
            Peering::JOIN_WITHIN
        )
    );
    assert_eq!(peering.pki, Path::new(Peering::DEFAULT_PKI));
    let key = model.group.key.unwrap();
    assert_eq!(key.bytes()[..3], [0x00, 0x11, 0x22]);
    assert_eq!(model.capacity, Capacity::default());
    assert_eq!(model.encap.source_ipv4.unwrap().to_string(), "192.0.2.0/28");
    assert_eq!(model.encap.source_ipv6.unwrap().to_string(), "2001:db8:1::/64");
    let web = &model.pools[0];
    assert_eq!(
        web.backends
            .iter()
            .map(|backend| backend.weight)
            .collect::<Vec<_>>(),
        [1, 3, 1]
    );
    assert_eq!(
        web.backends[2].via,
        Some(Via {
            interface: "eth1".into(),
            mac: [2, 0, 0, 0, 0, 0x13]
        })
    );
    assert_eq!(web.backends[0].id, lb_common::id::stable("web", "be1"));
    assert_ne!(web.backends[0].id, model.pools[1].backends[0].id);
    let health = web.health.as_ref().unwrap();
    assert_eq!(health.probe.name(), "https");
    assert_eq!(
        (health.rise, health.fall, health.interval),
        (2, 3, Duration::from_secs(2))
    );
    assert_eq!(model.pools[1].health.as_ref().unwrap().probe, Probe::Icmp);
    let vips: Vec<_> = model
        .vips
        .iter()
        .map(|vip| (vip.port, vip.protocol, vip.pool))
        .collect();
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    assert_eq!(
        vips,
        [
            (443, tcp, 0),
            (443, udp, 0),
            (0, tcp, 0),
            (443, tcp, 1),
            (80, tcp, 1)
        ]
    );
    assert_eq!(model.vips[3].to_string(), "[2001:db8:3::1]:443/tcp");
    assert_eq!(model.vips[2].to_string(), "203.0.113.9:any/tcp");
}

#[test]
fn nodes_with_addresses_talk_and_those_without_do_not() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/accepted/peering.yaml");
    let model = config::load(&file).unwrap_or_else(|error| panic!("{error}"));
    let peering = model.group.peering.unwrap();
    let addresses: Vec<String> = peering.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(
        addresses,
        [
            "192.0.2.1:7946",
            "192.0.2.2:7000",
            "[2001:db8::3]:7946",
            "[2001:db8::4]:7946"
        ]
    );
    assert_eq!(peering.pki, file.with_file_name("pki"));
    assert_eq!(peering.heartbeat, Duration::from_millis(20));
    assert_eq!(peering.withdraw_after, Peering::WITHDRAW_AFTER);
    // Names may look like something else to YAML, and a mapping may go without an address.
    let names = format!("{NODE}group: {{nodes: [lb1, 07, true, no, 1.50, {{name: lb2}}], key: {KEY}}}\n");
    let group = parse(&names).unwrap().group;
    let found: Vec<&str> = group.nodes.iter().map(|name| name.as_str()).collect();
    assert_eq!(found, ["lb1", "07", "true", "no", "1.50", "lb2"]);
    assert_eq!(group.peering, None);
    let lonely = format!("{NODE}group: {{nodes: [{{name: lb1, address: 192.0.2.1}}]}}\n");
    assert_eq!(parse(&lonely).unwrap().group.peering, None);
}

#[test]
fn a_minimal_file_gets_the_defaults() {
    let model = parse(NODE).unwrap();
    assert_eq!(model.group.nodes, std::slice::from_ref(&model.node.name));
    assert_eq!(model.group.key, None);
    assert_eq!(model.capacity, Capacity::default());
    assert_eq!((model.encap.source_ipv4, model.encap.source_ipv6), (None, None));
    assert!(model.pools.is_empty() && model.vips.is_empty());
}

#[test]
fn a_plain_source_address_is_a_prefix_of_one() {
    let model = parse(&format!(
        "{NODE}encap: {{source_ipv4: 192.0.2.7, source_ipv6: \"2001:db8::7\"}}\n"
    ))
    .unwrap();
    assert_eq!(model.encap.source_ipv4.unwrap().to_string(), "192.0.2.7/32");
    assert_eq!(model.encap.source_ipv6.unwrap().to_string(), "2001:db8::7/128");
}

/// A file with `backends` backends in pools of 256, and as many VIPs; with `flow` on a single line.
fn large(backends: usize, flow: bool) -> String {
    let pools: Vec<String> = (0..backends.div_ceil(256))
        .map(|pool| {
            let members: Vec<String> = (pool * 256..((pool + 1) * 256).min(backends))
                .map(|b| format!("{{name: be{b}, address: 10.{}.{}.{}, weight: 2, via: {{interface: eth1, mac: \"02:00:00:00:00:13\"}}}}", pool / 256, pool % 256, b % 256))
                .collect();
            format!("{{name: p{pool}, backends: [{}]}}", members.join(if flow { "," } else { ",\n    " }))
        })
        .collect();
    let vips: Vec<String> = (0..backends)
        .map(|v| {
            format!(
                "{{address: 172.16.{}.{}, port: 80, protocol: tcp, pool: p{}}}",
                v / 256,
                v % 256,
                v / 256
            )
        })
        .collect();
    let separator = if flow { "," } else { ",\n  " };
    format!(
        "{{node: {{name: lb1, interfaces: [eth0]}}{separator}capacity: {{pools: 1024, vips: 32768, backends: 32768}}{separator}pools: [{}]{separator}vips: [{}]}}\n",
        pools.join(separator),
        vips.join(separator)
    )
}

#[test]
fn large_files_are_read_and_quickly() {
    for (backends, flow) in [(4095, false), (4095, true)] {
        let text = large(backends, flow);
        let start = Instant::now();
        let model = parse(&text).unwrap_or_else(|error| panic!("{error}"));
        let elapsed = start.elapsed();
        println!(
            "{backends} backends, {} bytes, one line: {flow}: {elapsed:?}",
            text.len()
        );
        assert_eq!(
            model.pools.iter().map(|pool| pool.backends.len()).sum::<usize>(),
            backends
        );
        assert_eq!(model.vips.len(), backends);
        // Unoptimised and beside other builds; what is meant is "not quadratic".
        assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
    }
}

#[test]
fn one_backend_more_than_fits_is_too_many() {
    let error = refused(&large(32_768, false));
    assert!(
        matches!(
            only(&error),
            What::TooMany {
                count: 32_768,
                room: 32_767,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("at most 32768"), "{error}");
}

#[test]
fn an_anchor_used_by_every_backend_is_fine() {
    let members: Vec<String> = (1..2000)
        .map(|b| {
            format!(
                "      - {{name: be{b}, address: 10.0.{}.{}, via: *hop}}\n",
                b / 256,
                b % 256
            )
        })
        .collect();
    let first =
        "      - {name: be0, address: 10.1.0.0, via: &hop {interface: eth1, mac: \"02:00:00:00:00:13\"}}\n";
    let model = parse(&format!(
        "{NODE}pools:\n  - name: web\n    backends:\n{first}{}",
        members.concat()
    ))
    .unwrap();
    assert!(
        model.pools[0]
            .backends
            .iter()
            .all(|backend| backend.via.is_some())
    );
}

#[test]
fn hundreds_of_comments_are_fine() {
    let text = format!(
        "{}{NODE}pools:\n{}  []\n",
        "# comment\n".repeat(500),
        "  # comment\n".repeat(500)
    );
    parse(&text).unwrap();
}

#[test]
fn bottomless_nesting_is_refused_at_once() {
    for opening in ["[", "{a: ", "- ", "a: [", "? "] {
        for before in ["", "node: ", "pools: ", "node: {name: ", "x: "] {
            let start = Instant::now();
            let error = refused(&format!("{before}{}", opening.repeat(100_000)));
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "{before}{opening}: {:?}",
                start.elapsed()
            );
            assert!(error.to_string().len() < 1000, "{before}{opening}: {error}");
            assert!(error.problems[0].line > 0, "{before}{opening}: {error}");
        }
    }
    assert_eq!(only(&refused(&"[".repeat(100_000))), &What::Nesting);
}

#[test]
fn alias_bombs_are_refused_at_once() {
    let mut text = String::from("pools:\n  - &a0 {name: web, backends: []}\n");
    for level in 1..30 {
        text += &format!(
            "  - &a{level} [{}]\n",
            vec![format!("*a{}", level - 1); 10].join(", ")
        );
    }
    let start = Instant::now();
    refused(&text);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let error = config::load(&folder.path().join("absent.yaml")).unwrap_err();
    assert_eq!(only(&error), &What::Unreadable(std::io::ErrorKind::NotFound));
    assert!(
        error.to_string().contains("absent.yaml: can't be read: "),
        "{error}"
    );
    assert_eq!(only(&config::load(folder.path()).unwrap_err()), &What::Directory);
    let error = config::load(Path::new("/dev/zero")).unwrap_err();
    assert_eq!(
        only(&error),
        &What::TooLarge {
            limit: config::FILE_MAX
        }
    );

    let file = folder.path().join("latin1.yaml");
    fs::write(&file, b"node:\n  name: B\xc3\xa4r\xe4\n").unwrap();
    let error = config::load(&file).unwrap_err();
    assert_eq!(only(&error), &What::Encoding);
    assert_eq!((error.problems[0].line, error.problems[0].column), (2, 12));

    let largest = folder.path().join("largest.yaml");
    fs::write(
        &largest,
        format!("{NODE}{}", "#".repeat(config::FILE_MAX as usize - NODE.len())),
    )
    .unwrap();
    config::load(&largest).unwrap();
}

/// The result for a two-node group whose key file holds `content` and has `mode`.
fn with_key_file(content: &[u8], mode: u32) -> Result<Model, Error> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = folder.path().join("group.key");
    fs::write(&key, content).expect("a temporary folder");
    fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("a temporary folder");
    let file = folder.path().join("lb.yaml");
    fs::write(
        &file,
        format!("{NODE}group: {{nodes: [lb1, lb2], key_file: group.key}}\n"),
    )
    .expect("a temporary folder");
    config::load(&file)
}

#[test]
fn key_files() {
    let key = |text: &str| text.parse().ok();
    for content in [
        KEY.to_owned(),
        format!("{KEY}\n"),
        format!(" \n{KEY}\r\n\n"),
        KEY.to_uppercase(),
    ] {
        for mode in [0o600, 0o400, 0o640] {
            assert_eq!(
                with_key_file(content.as_bytes(), mode).unwrap().group.key,
                key(KEY),
                "{content:?} {mode:o}"
            );
        }
    }
    for (content, mode, want) in [
        (KEY.as_bytes(), 0o644, KeyFileError::Open { mode: 0o644 }),
        (KEY.as_bytes(), 0o602, KeyFileError::Open { mode: 0o602 }),
        (b"", 0o600, KeyFileError::Key(KeyError::Length(0))),
        (
            &KEY.as_bytes()[1..],
            0o600,
            KeyFileError::Key(KeyError::Length(31)),
        ),
        (&[0xff; 32], 0o600, KeyFileError::Key(KeyError::Digit)),
        (
            format!("{}é", &KEY[1..]).as_bytes(),
            0o600,
            KeyFileError::Key(KeyError::Digit),
        ),
    ] {
        let error = with_key_file(content, mode).unwrap_err();
        assert_eq!(only(&error), &What::KeyFile(want));
        assert_eq!(error.problems[0].path, "group.key_file");
        assert_secret(&error);
    }
}

#[test]
fn key_files_that_are_no_files() {
    for (path, want) in [
        (
            "/absent/group.key",
            KeyFileError::Unreadable(std::io::ErrorKind::NotFound),
        ),
        ("/", KeyFileError::NotAFile),
        ("/dev/zero", KeyFileError::NotAFile),
    ] {
        let error = refused(&format!("{NODE}group: {{nodes: [lb1, lb2], key_file: {path}}}\n"));
        assert_eq!(only(&error), &What::KeyFile(want));
    }
}

/// No four digits in a row of `KEY` are in what an error shows.
#[track_caller]
fn assert_secret(error: &Error) {
    for shown in [error.to_string(), format!("{error:?}"), format!("{error:#?}")] {
        let shown = shown.to_lowercase();
        for window in KEY.as_bytes().windows(4) {
            let window = std::str::from_utf8(window).expect("hex digits");
            assert!(!shown.contains(window), "{window} in: {shown}");
        }
    }
}

#[test]
fn no_error_shows_the_key() {
    let short = &KEY[..30];
    let parted = format!("{}-{}", &KEY[..6], &KEY[6..]);
    for group in [
        format!("key: {short}"),
        format!("key: {KEY}0"),
        format!("key: {short}zz"),
        format!("key: {parted}"),
        format!("key: \"{KEY}"),
        format!("key: '{KEY}"),
        format!("key: \"{short}\\q\""),
        format!("key: @{KEY}"),
        format!("key: *{KEY}"),
        format!("key: &{KEY}"),
        format!("key: !{KEY} [x]"),
        format!("key: !!{KEY} x"),
        format!("key: !<{KEY} x"),
        format!("key: %{KEY}"),
        format!("key: {}: {}", &KEY[..16], &KEY[16..]),
        format!("key: [{KEY}]"),
        format!("key: {{{KEY}: 1}}"),
        format!("key: {{{KEY}}}"),
        format!("key: {{0x{}: 1, 0x{}: 2}}", &KEY[..16], &KEY[..16]),
        format!("key: |\n    {short}"),
        format!("key: |\n    {parted}\n  - x"),
        format!("key: >-\n    {parted}\n  {parted}"),
        format!("key:\n    {parted}\n  {parted}"),
        format!("key:\n    - {parted}"),
        format!("key: {parted}\n  key: {parted}"),
        format!("key: {KEY}\n  key_file: {KEY}"),
        format!("key_file: {KEY}"),
        format!("kye: {parted}"),
        format!("secret: {parted}"),
        format!("{parted}: key"),
        KEY.to_owned(),
        parted.clone(),
        format!("- {parted}"),
        format!("? {parted}"),
        format!("keys: {KEY}\n  nodes: {parted}"),
        format!("key: {KEY}\n\tnodes: [lb1]"),
        format!("key: [{KEY}, {short}!]"),
    ] {
        for before in ["", "vips: []\n"] {
            let text = format!("{NODE}{before}group:\n  nodes: [lb1, lb2]\n  {group}\npools: []\n");
            assert_eq!(
                parse(&text).err().map(|error| assert_secret(&error)),
                Some(()),
                "accepted: {text}"
            );
        }
    }
}

#[test]
fn no_error_shows_a_key_in_a_wrong_place() {
    let parted = format!("{}-{}", &KEY[..6], &KEY[6..]);
    for text in [
        format!("group: {parted}\n"),
        format!("groop: {{kye: {parted}}}\n"),
        format!("gruop:\n  kee: {KEY}\n"),
        format!("{{group: {{nodes: [lb1], key: {parted}, vips: []}}\n"),
        format!("{{group: {{nodes: [lb1], key: {parted}\n"),
        format!("{NODE}key: {parted}\n"),
        format!("{NODE}group_key: {parted}\n"),
        format!("{NODE}{KEY}: 1\n"),
        format!("{NODE}{KEY}\n"),
        format!("node: {{name: lb1, interfaces: [eth0], attach: {KEY}}}\n"),
        format!("node: {{name: lb1, interfaces: [eth0], key: {KEY}}}\n"),
        format!("node: {{name: lb1, interfaces: [eth0], name: {KEY}\n"),
        format!("node: {{name: {KEY}0, interfaces: [{KEY}]}}\n"),
        format!("{NODE}vips: [{{address: {KEY}, port: {KEY}, protocol: {KEY}, pool: {KEY}}}]\n"),
        format!("{NODE}encap: {{source_ipv4: {KEY}}}\ncapacity: {{pools: {KEY}}}\n"),
        format!(
            "{NODE}pools: [{{name: {KEY}, backends: [{{name: {KEY}, address: x}}, {{name: {KEY}, address: y}}]}}]\n"
        ),
        format!("x: &{KEY} 1\n"),
        format!("{NODE}# {KEY}\npools: [\n"),
        format!("{NODE}group:\n  key: \"{parted}\n{parted}\npools: []\n"),
        KEY.to_owned(),
        format!("{NODE}group:\r\n  key: {parted}\r\n  nodes: {{}}\r\n"),
        format!("{NODE}group:\r  key: {parted}\r  nodes: {{}}\r"),
    ] {
        assert_eq!(
            parse(&text).err().map(|error| assert_secret(&error)),
            Some(()),
            "accepted: {text}"
        );
    }
}

#[test]
fn a_good_key_is_never_shown() {
    let model = parse(&format!("{NODE}group: {{nodes: [lb1, lb2], key: {KEY}}}\n")).unwrap();
    let shown = format!("{model:?}");
    assert!(
        shown.contains("masked") && !shown.contains("0f1e") && !shown.contains("15, 30"),
        "{shown}"
    );
}

mod random {
    //! Mutated and random files never panic and never show the key.

    use super::*;
    use proptest::prelude::*;

    fn example() -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/lb.example.yaml");
        fs::read_to_string(path)
            .expect("the example is there")
            .replace("00112233445566778899aabbccddeeff", KEY)
    }

    proptest! {
        #[test]
        fn mutated_examples(
            edits in prop::collection::vec((any::<prop::sample::Index>(), "[\\[\\]{}:,\"'&*!|>#%@\n\t -]{0,3}", 0usize..4), 1..4)
        ) {
            let mut text: Vec<char> = example().chars().collect();
            for (at, insert, remove) in edits {
                let at = at.index(text.len());
                let end = (at + remove).min(text.len());
                text.splice(at..end, insert.chars());
            }
            let text: String = text.into_iter().collect();
            if let Err(error) = parse(&text) {
                prop_assert!(!error.problems.is_empty());
                assert_secret(&error);
            }
        }

        #[test]
        fn random_text(text in ".{0,200}") {
            if let Err(error) = parse(&text) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
