use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::charter::message::Charter;

fn held(number: u64) -> Held {
    Held {
        generation: Generation { number, node: 1 },
        base: Generation {
            number: number - 1,
            node: 1,
        },
        charter: Charter {
            text: format!("pools: [] # {number}\n"),
            ..Charter::default()
        },
    }
}

fn numbers(shelf: &Shelf) -> Vec<u64> {
    let history = shelf.history().unwrap();
    history.iter().map(|held| held.generation.number).collect()
}

#[test]
fn what_was_saved_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(dir.path()).unwrap();
    assert_eq!(shelf.load().unwrap(), (Kept::default(), Vec::new()));
    shelf.save(&Save::Pending(held(1))).unwrap();
    let kept = shelf.load().unwrap().0;
    assert_eq!(
        (kept.committed, kept.pending, kept.last),
        (None, Some(held(1)), 1)
    );
    shelf.save(&Save::Committed(held(1))).unwrap();
    shelf.save(&Save::Pending(held(2))).unwrap();
    shelf.save(&Save::Dropped { last: 7 }).unwrap();
    let kept = Shelf::open(dir.path()).unwrap().load().unwrap().0;
    assert_eq!(
        (kept.committed, kept.pending, kept.last),
        (Some(held(1)), None, 7)
    );
    for file in ["charter/current", "charter/pending"] {
        let mode = fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

/// Of each generation here the text is a new one but for orders.
#[test]
fn many_orders_push_no_text_out() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(dir.path()).unwrap();
    for number in 1..=3 {
        shelf.save(&Save::Committed(held(number))).unwrap();
    }
    for number in 4..=40 {
        let mut order = held(number);
        order.charter.text = held(3).charter.text;
        shelf.save(&Save::Committed(order)).unwrap();
    }
    let newest = (31..=40).rev();
    // The third one's text is that of all orders behind it; the first of them that is still there stands for it.
    assert_eq!(numbers(&shelf), newest.chain([3, 2, 1]).collect::<Vec<_>>());
}

/// It is remembered, and was never the group's.
#[test]
fn what_a_node_ran_before_is_not_committed() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(dir.path()).unwrap();
    let generation = Generation { number: 0, node: 1 };
    let first = Held {
        generation,
        base: generation,
        charter: Charter::default(),
    };
    shelf.remember(&first);
    assert_eq!(shelf.load().unwrap(), (Kept::default(), Vec::new()));
    shelf.save(&Save::Committed(held(1))).unwrap();
    assert_eq!(numbers(&shelf), [1, 0]);
}

#[test]
fn the_last_ten_are_kept_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(dir.path()).unwrap();
    for number in 95..=107 {
        shelf.save(&Save::Committed(held(number))).unwrap();
    }
    assert_eq!(numbers(&shelf), (98..=107).rev().collect::<Vec<_>>());
}

#[test]
fn in_place_of_an_unreadable_one_the_newest_of_the_history_holds() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(dir.path()).unwrap();
    shelf.save(&Save::Committed(held(4))).unwrap();
    shelf.save(&Save::Committed(held(5))).unwrap();
    let current = dir.path().join("charter/current");
    let whole = fs::read(&current).unwrap();
    fs::write(&current, &whole[..whole.len() / 2]).unwrap();
    fs::write(dir.path().join("charter/pending"), "{\"version\": 9}").unwrap();
    let (kept, lost) = shelf.load().unwrap();
    assert_eq!(kept.committed, Some(held(5)));
    assert_eq!(lost.len(), 2, "{lost:?}");
    assert!(dir.path().join("charter/current.unreadable").exists());
    fs::remove_dir_all(dir.path().join("charter/history")).unwrap();
    let shelf = Shelf::open(dir.path()).unwrap();
    assert_eq!(
        shelf.load().unwrap(),
        (Kept::default(), Vec::new()),
        "the peers know"
    );
}
