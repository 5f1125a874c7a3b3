//! Breadth first through all worlds, so that the first counterexample is a shortest one.

use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

use crate::rules::Rules;
use crate::steps::{self, Step};
use crate::world::World;

/// What a search found.
pub(crate) enum Found {
    /// No flow breaks, and this many worlds can be reached.
    Nothing(usize),
    /// No flow breaks in the first so many worlds, which are all that so many steps lead to; there are more.
    GivenUp(usize, usize),
    /// The steps to a broken flow, in words.
    Broken(String),
}

/// A multiply-and-rotate hash: fast, and nobody attacks a test.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

/// Where each world stands in the list: a hash table with linear probing, of numbers alone.
struct Index {
    places: Vec<u32>,
    len: usize,
}

const EMPTY: u32 = u32::MAX;

impl Index {
    fn new() -> Self {
        Self {
            places: vec![EMPTY; 1 << 16],
            len: 0,
        }
    }

    /// The place of `world` or, if it is new, an empty one.
    fn place(&self, world: &World, worlds: &[Reached]) -> usize {
        let mask = self.places.len() - 1;
        let mut place = hash(world) as usize & mask;
        while self.places[place] != EMPTY && worlds[self.places[place] as usize].world != *world {
            place = (place + 1) & mask;
        }
        place
    }

    /// Notes that `world` will be the next in the list; `false` if it is in there.
    fn insert(&mut self, world: &World, worlds: &[Reached]) -> bool {
        if self.len * 2 > self.places.len() {
            self.places = vec![EMPTY; self.places.len() * 2];
            for (at, reached) in (0..).zip(worlds) {
                let place = self.place(&reached.world, worlds);
                self.places[place] = at;
            }
        }
        let place = self.place(world, worlds);
        let is_new = self.places[place] == EMPTY;
        if is_new {
            self.places[place] = worlds.len() as u32;
            self.len += 1;
        }
        is_new
    }
}

/// A world, the one before it, and the step between them.
struct Reached {
    world: World,
    before: u32,
    step: Step,
}

fn hash(world: &World) -> u64 {
    BuildHasherDefault::<Mix>::default().hash_one(world)
}

/// Searches all worlds behind `start`, `limit` of them at most.
pub(crate) fn search(start: World, rules: &Rules, limit: usize) -> Found {
    let mut index = Index::new();
    let mut worlds = Vec::new();
    let mut next = vec![(Step::Start, start)];
    let mut at = 0;
    loop {
        for (step, world) in next.drain(..) {
            if index.insert(&world, &worlds) {
                let before = (at as u32).wrapping_sub(1);
                worlds.push(Reached { world, before, step });
                if steps::is_broken(&world, rules) {
                    return Found::Broken(story(&worlds));
                }
            }
        }
        // The first world comes from nowhere.
        let Some(reached) = worlds.get(at) else {
            return Found::Nothing(worlds.len());
        };
        if worlds.len() > limit {
            return Found::GivenUp(worlds.len(), depth(&worlds, at));
        }
        steps::all(&reached.world, rules, &mut next);
        at += 1;
    }
}

/// The world behind some steps, in words as [`Found::Broken`] has them.
pub(crate) fn replay(start: World, rules: &Rules, story: &str) -> World {
    story
        .split("; ")
        .filter(|words| !words.is_empty())
        .fold(start, |world, words| {
            let mut next = Vec::new();
            steps::all(&world, rules, &mut next);
            let found = next.into_iter().find(|(step, _)| step.to_string() == words);
            found.unwrap_or_else(|| panic!("{words}: not possible here")).1
        })
}

/// How many steps lead to a world.
fn depth(worlds: &[Reached], mut at: usize) -> usize {
    let mut depth = 0;
    while at > 0 {
        at = worlds[at].before as usize;
        depth += 1;
    }
    depth
}

/// The steps to the last world.
fn story(worlds: &[Reached]) -> String {
    let mut words = Vec::new();
    let mut at = worlds.len() - 1;
    while at > 0 {
        words.push(worlds[at].step.to_string());
        at = worlds[at].before as usize;
    }
    words.reverse();
    words.join("; ")
}
