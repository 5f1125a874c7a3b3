//! The VIP table: a perfect hash in an array, changed word by word under traffic.
//!
//! A key that is there stays found while others come and go: it moves only to free cells, its bucket's seed is
//! stored after its copies, and the cells that it left are used again in a later change at the earliest, when no packet
//! reads them any more.

use std::collections::{BTreeMap, HashMap, HashSet};

use lb_common::vip::{Cell, Key, Value, bucket, cells, place, shift};

use super::memory::Memory;

/// Words of a cell.
const WORDS: usize = size_of::<Cell>() / size_of::<u64>();
/// The word with the end of the key and the value.
const TAIL: usize = 2;
/// The word with the bucket's seed.
const SEED: usize = 3;
/// Seeds that are tried. At most half of the cells are taken, so a bucket of k keys takes about 2^k of them.
const TRIES: u64 = 1 << 16;

/// The table, and what is known of it while it is changed.
#[derive(Debug)]
pub(super) struct Table {
    memory: Memory,
    shift: u32,
    change: Option<Change>,
}

/// Who is where, while a change is written.
#[derive(Debug, Default)]
struct Change {
    /// Keys by bucket.
    keys: HashMap<u32, Vec<Key>>,
    /// Cells that hold a key, or did when this change began.
    taken: HashSet<u32>,
}

/// No seed was found that keeps all keys apart.
#[derive(Debug)]
pub(super) struct Full;

impl Table {
    /// Words of a table for so many VIPs.
    pub(super) const fn words(vips: u32) -> usize {
        cells(vips) as usize * WORDS
    }

    /// A table for so many VIPs in [`Table::words`] of memory.
    pub(super) fn new(memory: Memory, vips: u32) -> Self {
        Self {
            memory,
            shift: shift(cells(vips)),
            change: None,
        }
    }

    /// All keys with their values.
    pub(super) fn all(&self) -> BTreeMap<Key, Value> {
        let found = (0..1 << (64 - self.shift)).filter_map(|cell| self.key(cell));
        found.collect()
    }

    /// Adds a key, or replaces its value.
    pub(super) fn set(&mut self, key: &Key, value: &Value) -> Result<(), Full> {
        let cell = Cell::new(key, value);
        if let Some(place) = self.find(key) {
            self.store(place, TAIL, cell.tail);
            return Ok(());
        }
        let mut change = self.begin();
        let bucket = bucket(key.hash(), self.shift);
        let keys = change.keys.entry(bucket).or_default();
        keys.push(*key);
        let seed = self.seed(bucket, keys, &change.taken);
        if let Some(seed) = seed {
            for member in keys.iter() {
                let from = self.find(member);
                let to = place(member.hash(), seed, self.shift);
                change.taken.insert(to);
                if from != Some(to) {
                    let content = from.map_or(cell, |from| self.cell(from));
                    self.store(to, 0, content.addr[0]);
                    self.store(to, 1, content.addr[1]);
                    self.store(to, TAIL, content.tail);
                }
            }
            self.store(bucket, SEED, seed);
        } else {
            keys.pop();
        }
        self.change = Some(change);
        seed.map(|_| ()).ok_or(Full)
    }

    /// Takes a key away, if it is there.
    pub(super) fn remove(&mut self, key: &Key) {
        let Some(place) = self.find(key) else { return };
        let mut change = self.begin();
        self.store(place, TAIL, 0);
        let bucket = bucket(key.hash(), self.shift);
        let keys = change.keys.entry(bucket).or_default();
        keys.retain(|k| k != key);
        if keys.is_empty() {
            self.store(bucket, SEED, 0);
        }
        self.change = Some(change);
    }

    /// The change is written: the cells that it left can be used by the next one.
    pub(super) fn settle(&mut self) {
        self.change = None;
    }

    /// What is where. Cells that no seed leads to were left by an earlier change, and are emptied.
    fn begin(&mut self) -> Change {
        self.change.take().unwrap_or_else(|| {
            let mut change = Change::default();
            for cell in 0..1 << (64 - self.shift) {
                if let Some((key, _)) = self.key(cell) {
                    let bucket = bucket(key.hash(), self.shift);
                    change.keys.entry(bucket).or_default().push(key);
                    change.taken.insert(cell);
                } else {
                    self.store(cell, TAIL, 0);
                }
            }
            change
        })
    }

    /// A seed that gives each key a cell of its own which is free or already the key's; the present one if it does.
    fn seed(&self, bucket: u32, keys: &[Key], taken: &HashSet<u32>) -> Option<u64> {
        let fits = |&seed: &u64| {
            let mut places = HashSet::new();
            keys.iter().all(|key| {
                let to = place(key.hash(), seed, self.shift);
                places.insert(to) && (!taken.contains(&to) || self.find(key) == Some(to))
            })
        };
        let present = Some(self.cell(bucket).seed).filter(|&seed| seed != 0);
        // Odd multiples of a constant with its bits well mixed.
        let more = (0..TRIES).map(|i| (2 * i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        present.into_iter().chain(more).find(fits)
    }

    /// The cell that holds a key.
    fn find(&self, key: &Key) -> Option<u32> {
        let hash = key.hash();
        let seed = self.cell(bucket(hash, self.shift)).seed;
        let place = place(hash, seed, self.shift);
        (seed != 0 && self.cell(place).get().is_some_and(|(k, _)| k == *key)).then_some(place)
    }

    /// What a cell holds, if its bucket's seed leads there.
    fn key(&self, cell: u32) -> Option<(Key, Value)> {
        self.cell(cell)
            .get()
            .filter(|(key, _)| self.find(key) == Some(cell))
    }

    fn cell(&self, cell: u32) -> Cell {
        let word = |i| self.memory.load(cell as usize * WORDS + i);
        Cell {
            addr: [word(0), word(1)],
            tail: word(TAIL),
            seed: word(SEED),
        }
    }

    fn store(&self, cell: u32, word: usize, value: u64) {
        self.memory.store(cell as usize * WORDS + word, value);
    }
}

const _: () = assert!(WORDS == 4 && std::mem::offset_of!(Cell, tail) == 8 * TAIL);
const _: () = assert!(std::mem::offset_of!(Cell, seed) == 8 * SEED);

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::addr::Addr;
    use lb_common::be::Be16;
    use proptest::prelude::*;
    use std::net::IpAddr;

    const VIPS: u32 = 8;

    fn table() -> Table {
        let memory = Memory::anonymous(Table::words(VIPS)).expect("memory");
        Table::new(memory, VIPS)
    }

    /// Keys that differ in one thing each.
    fn key(i: u32) -> Key {
        let ip: IpAddr = if i.is_multiple_of(2) {
            std::net::Ipv4Addr::from(0xc000_0200 + i / 4).into()
        } else {
            std::net::Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(i / 4)).into()
        };
        let proto = if i & 2 == 0 { 6 } else { 17 };
        Key::new(Addr::from(ip), Be16::new(80), proto)
    }

    fn value(index: u16) -> Value {
        Value {
            pool: index ^ 0x5a5a,
            index,
            flags: 1,
            pad: 0,
        }
    }

    proptest! {
        #[test]
        fn holds_what_a_map_would(steps in proptest::collection::vec((0u32..40, any::<Option<u16>>(), any::<bool>()), 1..300)) {
            let (mut table, mut model) = (table(), BTreeMap::new());
            for (i, step, settle) in steps {
                // Never more keys than there is room for: six for each VIP.
                match step {
                    Some(index) if model.contains_key(&key(i)) || model.len() < 6 * VIPS as usize => {
                        table.settle();
                        table.set(&key(i), &value(index)).expect("there is room");
                        model.insert(key(i), value(index));
                    }
                    _ => {
                        table.remove(&key(i));
                        model.remove(&key(i));
                    }
                }
                if settle {
                    table.settle();
                }
                prop_assert_eq!(table.all(), model.clone());
            }
        }
    }

    #[test]
    fn a_full_change_has_room_for_old_and_new() {
        let mut table = table();
        let (old, new) = (0..3 * VIPS, 3 * VIPS..6 * VIPS);
        for i in old.clone() {
            table.set(&key(i), &value(1)).expect("room for the old");
        }
        table.settle();
        for i in new.clone() {
            table.set(&key(i), &value(2)).expect("room for the new");
        }
        old.for_each(|i| table.remove(&key(i)));
        assert_eq!(table.all(), new.map(|i| (key(i), value(2))).collect());
    }

    #[test]
    fn a_table_without_room_says_so_and_stays() {
        let mut table = table();
        let fits = (0..10_000)
            .find(|&i| table.set(&key(i), &value(1)).is_err())
            .expect("it ends");
        assert!(fits >= 6 * VIPS, "{fits}");
        assert_eq!(table.all().len(), fits as usize);
        table.set(&key(0), &value(9)).expect("a key that is there");
        assert_eq!(table.all()[&key(0)].index, 9);
    }

    /// A packet that has read an old seed still finds its key: within a change nothing is stored where it looks.
    #[test]
    fn cells_that_were_left_stay_until_the_next_change() {
        let mut table = table();
        for i in 0..20 {
            table.set(&key(i), &value(i as u16)).expect("room");
        }
        table.settle();
        let size = cells(VIPS);
        let before: Vec<Cell> = (0..size).map(|c| table.cell(c)).collect();
        for i in 20..48 {
            table.set(&key(i), &value(i as u16)).expect("room");
        }
        for (cell, before) in (0..size).zip(&before).filter(|(_, b)| b.tail != 0) {
            let now = table.cell(cell);
            assert_eq!((now.addr, now.tail), (before.addr, before.tail), "cell {cell}");
        }
        table.settle();
        table.remove(&key(0));
        let held = (0..size).filter(|&c| table.cell(c).tail != 0).count();
        assert_eq!(held, 47, "copies that were left behind are gone");
    }
}
