//! Flags in words.

use lb_common::slot::{CLOSING, Slot, TRACKED, UDP_LEARN};
use lb_common::{admit, backend, vip};

/// Flags of a slot.
const SLOT: [(u16, &str); 3] = [
    (TRACKED, "tracked"),
    (CLOSING, "closing"),
    (UDP_LEARN, "udp_learn"),
];

/// Flags of a VIP.
const VIP: [(u16, &str); 3] = [
    (vip::SERVED, "served"),
    (vip::ALWAYS, "always"),
    (vip::OFF, "off"),
];

/// Flags of a backend's entry.
const BACKEND: [(u16, &str); 5] = [
    (backend::READY, "ready"),
    (backend::OUTER_V6, "outer_v6"),
    (backend::DEAD, "dead"),
    (backend::GUE, "gue"),
    (backend::CHANCE, "second_chance"),
];

/// Flags of the flow table's limits.
const LIMITS: [(u16, &str); 3] = [
    (admit::FULL as u16, "full"),
    (admit::UDP_FULL as u16, "udp_full"),
    (admit::EVENTS as u16, "events"),
];

/// The flags of a slot.
pub(super) fn of_slot(slot: Slot) -> Vec<String> {
    names(slot.flags(), &SLOT)
}

/// The flags of a VIP.
pub(super) fn of_vip(value: &vip::Value) -> Vec<String> {
    names(value.flags, &VIP)
}

/// The flags of a backend's entry.
pub(super) fn of_backend(entry: &backend::Entry) -> Vec<String> {
    names(entry.flags, &BACKEND)
}

/// The flags of the flow table's limits.
pub(super) fn of_limits(flags: u32) -> Vec<String> {
    names(flags as u16, &LIMITS)
}

/// The names of the set bits; bits without a name as one number.
fn names(flags: u16, known: &[(u16, &str)]) -> Vec<String> {
    let set = known.iter().filter(|(bit, _)| flags & bit != 0);
    let rest = known.iter().fold(flags, |rest, (bit, _)| rest & !bit);
    let rest = (rest != 0).then(|| format!("{rest:#06x}"));
    set.map(|(_, name)| (*name).to_owned()).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_is_told() {
        let slot = |flags: u16| Slot::new(0, 0, 0, flags);
        assert_eq!(of_slot(Slot::untracked(7)), [""; 0]);
        assert_eq!(of_slot(slot(TRACKED)), ["tracked"]);
        assert_eq!(
            of_slot(slot(TRACKED | CLOSING | UDP_LEARN)),
            ["tracked", "closing", "udp_learn"]
        );
        assert_eq!(of_slot(slot(0x8003)), ["tracked", "closing", "0x8000"]);
        let entry = backend::Entry {
            flags: 3,
            ..backend::Entry::default()
        };
        assert_eq!(of_backend(&entry), ["ready", "outer_v6"]);
        assert_eq!(of_vip(&vip::Value::default()), [""; 0]);
    }
}
