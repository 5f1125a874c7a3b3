//! State files: whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use lb_userspace::agent::store::{Draft, Loaded, Store};

type Value = BTreeMap<String, u32>;

fn value(number: u32) -> Value {
    BTreeMap::from([("a".to_owned(), number)])
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it works").permissions().mode() & 0o777
}

#[test]
fn what_was_saved_is_loaded_and_nobody_else_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/state");
    let store = Store::open(&path).unwrap();
    assert_eq!(store.load::<Value>("x.json").unwrap(), Loaded::Nothing);
    for number in [1, 2] {
        store.save("x.json", &value(number)).unwrap();
        assert_eq!(store.load("x.json").unwrap(), Loaded::Value(value(number)));
    }
    assert_eq!((mode(&path), mode(&path.join("x.json"))), (0o700, 0o600));
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "no draft is left");
}

#[test]
fn what_is_no_value_is_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let good = r#"{"version": 1, "data": {"a": 1}}"#;
    for (text, word) in [
        ("", "EOF"),
        (&good[..20], "EOF"),
        ("null", "invalid type"),
        (r#"{"version": 2, "data": {}}"#, "it has version 2"),
        (r#"{"version": 1, "data": {"a": "b"}}"#, "invalid type"),
        (r#"{"version": 1, "data": {}, "more": 1}"#, "unknown field"),
    ] {
        fs::write(dir.path().join("x.json"), text).unwrap();
        let Loaded::Unreadable { kept, why } = store.load::<Value>("x.json").unwrap() else {
            panic!("{text} was read");
        };
        assert!(why.contains(word), "{text}: {why}");
        assert_eq!(fs::read_to_string(kept).unwrap(), text);
        assert_eq!(store.load::<Value>("x.json").unwrap(), Loaded::Nothing);
    }
    fs::write(dir.path().join("x.json"), good).unwrap();
    assert_eq!(store.load("x.json").unwrap(), Loaded::Value(value(1)));
}

#[test]
fn a_save_that_fails_leaves_the_old_value() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.save("x.json", &value(1)).unwrap();
    // Root writes everywhere, but not through a folder.
    fs::create_dir(dir.path().join("x.json.new")).unwrap();
    let error = store.save("x.json", &value(2)).unwrap_err();
    assert!(error.to_string().contains("x.json.new"), "{error}");
    assert_eq!(store.load("x.json").unwrap(), Loaded::Value(value(1)));
}

#[test]
fn a_draft_keeps_the_mode_and_the_former_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lb.yaml");
    let backup = Draft::write(&path, b"one")
        .unwrap()
        .publish_with_backup()
        .unwrap();
    assert_eq!((backup, mode(&path)), (None, 0o600));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    for (content, former) in [("two", "one"), ("three", "two")] {
        let draft = Draft::write(&path, content.as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), former);
        let backup = draft.publish_with_backup().unwrap().unwrap();
        assert_eq!(backup, dir.path().join("lb.yaml.bak"));
        assert_eq!(fs::read_to_string(&backup).unwrap(), former);
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
        assert_eq!((mode(&path), mode(&backup)), (0o640, 0o640));
    }
    drop(Draft::write(&path, b"never").unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), "three");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_link_in_the_place_of_a_draft_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, victim) = (dir.path().join("lb.yaml"), dir.path().join("victim"));
    fs::write(&victim, "mine").unwrap();
    symlink(&victim, dir.path().join("lb.yaml.new")).unwrap();
    Draft::write(&path, b"one").unwrap().publish().unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    assert_eq!(fs::read_to_string(&path).unwrap(), "one");
}
