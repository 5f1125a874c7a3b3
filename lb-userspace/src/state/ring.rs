//! The ring of one pool: Maglev over its backends, lent out where a backend has no next hop.

use std::collections::HashMap;
use std::sync::Arc;

use lb_common::maglev::{self, Cursor, Member};
use lb_common::overlay;
use lb_common::slot::{NO_BACKEND, SLOTS};

use super::contents::Ring;

/// One backend of a pool, as its ring sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Stable identity.
    pub id: u64,
    /// Configured weight.
    pub weight: u16,
    /// Local index.
    pub index: u16,
    /// Whether packets can be sent there.
    pub up: bool,
}

/// Rings that were built already: building one again costs milliseconds, and most changes leave most pools alone.
#[derive(Default, Debug)]
pub struct Cache {
    rings: HashMap<Vec<Place>, Ring>,
    builds: u64,
}

impl Cache {
    /// The ring of a pool; the order of `places` does not matter.
    pub fn ring(&mut self, mut places: Vec<Place>) -> Ring {
        places.sort_unstable_by_key(|p| p.id);
        if let Some(ring) = self.rings.get(&places) {
            return Arc::clone(ring);
        }
        let ring = Arc::new(build(&places));
        self.builds += 1;
        self.rings.insert(places, Arc::clone(&ring));
        ring
    }

    /// Rings that were computed.
    pub const fn builds(&self) -> u64 {
        self.builds
    }

    /// Forgets rings that nobody holds any more.
    pub fn shrink(&mut self) {
        self.rings.retain(|_, ring| Arc::strong_count(ring) > 1);
    }
}

fn build(places: &[Place]) -> Vec<u16> {
    let members: Vec<Member> = places
        .iter()
        .map(|p| Member {
            id: p.id,
            weight: p.weight,
        })
        .collect();
    let up: Vec<bool> = places.iter().map(|p| p.up).collect();
    let mut scratch = vec![Cursor::default(); members.len()];
    let mut home = Box::new([maglev::NONE; SLOTS]);
    maglev::fill(&members, &mut scratch, &mut home).expect("a valid model has unique identities");
    let mut slots = Box::new([maglev::NONE; SLOTS]);
    overlay::apply(&home, &members, &up, &mut slots);
    let index = |&member: &u16| places.get(usize::from(member)).map_or(NO_BACKEND, |p| p.index);
    slots.iter().map(index).collect()
}
