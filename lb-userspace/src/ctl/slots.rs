//! Slots of a ring, those that hold the same put together.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;

/// Slots that hold the same.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group<K> {
    /// What they hold.
    pub(super) held: K,
    /// How many they are.
    pub(super) count: usize,
    /// First and last of each run of them.
    pub(super) runs: Vec<(usize, usize)>,
}

/// A ring's slots by what they hold, the largest group first.
pub(super) fn group<K: Hash + Eq + Copy>(ring: impl IntoIterator<Item = K>) -> Vec<Group<K>> {
    let mut groups: HashMap<K, Group<K>> = HashMap::new();
    for (index, held) in ring.into_iter().enumerate() {
        let group = groups.entry(held).or_insert(Group {
            held,
            count: 0,
            runs: Vec::new(),
        });
        group.count += 1;
        match group.runs.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => group.runs.push((index, index)),
        }
    }
    let mut groups: Vec<Group<K>> = groups.into_values().collect();
    groups.sort_unstable_by_key(|group| (Reverse(group.count), group.runs.first().copied()));
    groups
}

impl<K> Group<K> {
    /// `0-3,7,12-14`: all of its slots.
    pub(super) fn slots(&self) -> String {
        let runs: Vec<String> = self.runs.iter().map(run).collect();
        runs.join(",")
    }

    /// The same, with at most `most` runs.
    pub(super) fn first_slots(&self, most: usize) -> String {
        let runs: Vec<String> = self.runs.iter().take(most).map(run).collect();
        let rest: usize = self.runs[runs.len()..].iter().map(|(a, b)| b - a + 1).sum();
        if rest == 0 {
            runs.join(", ")
        } else {
            format!("{} and {rest} more", runs.join(", "))
        }
    }
}

fn run(&(first, last): &(usize, usize)) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    }
}

#[cfg(test)]
mod tests {
    use lb_common::slot::Slot;

    use super::*;

    #[test]
    fn slots_that_hold_the_same() {
        let ring = [1, 1, 2, 1, 3, 3, 3, 1, 1, 1].map(Slot::untracked);
        let groups = group(ring);
        let shown: Vec<_> = groups
            .iter()
            .map(|g| (g.held.current(), g.count, g.slots()))
            .collect();
        assert_eq!(
            shown,
            [
                (1, 6, "0-1,3,7-9".to_owned()),
                (3, 3, "4-6".to_owned()),
                (2, 1, "2".to_owned())
            ]
        );
        assert_eq!(groups[0].first_slots(2), "0-1, 3 and 3 more");
        assert_eq!(groups[0].first_slots(3), "0-1, 3, 7-9");
        assert_eq!(group([0u8; 0]), []);
    }

    #[test]
    fn every_part_of_a_slot_counts() {
        let plain = Slot::untracked(1);
        let ring = [plain, Slot(plain.0 | 1 << 48), Slot(plain.0 | 2 << 32), plain];
        assert_eq!(group(ring).len(), 3);
    }
}
