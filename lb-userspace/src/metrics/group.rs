//! Whether this node may attract traffic, and how its group runs → samples.

use super::render::{Page, real, truth};
use super::snapshot::Told;
use super::table;

/// As [`crate::group::Status`] names them.
const PHASES: [&str; 6] = [
    "change",
    "verdict",
    "burial",
    "retirement",
    "admission",
    "recovery",
];

impl Page {
    pub(super) fn group(&mut self, told: &Told) {
        self.one(&table::READY, truth(told.ready));
        let Some(group) = &told.group else { return };
        self.one(&table::GROUP_MEMBERS, f64::from(group.members));
        self.one(&table::GROUP_LIVE, f64::from(group.live));
        self.one(&table::GROUP_COORDINATES, truth(group.coordinates));
        let set = PHASES.map(|phase| ([phase], truth(group.phase == Some(phase))));
        self.put(&table::GROUP_PHASE, set);
        self.one(&table::GROUP_WAITS_FOR, f64::from(group.waits_for));
        self.one(&table::GROUP_ADRIFT, f64::from(group.adrift));
        self.one(&table::GROUP_WAITING, group.waiting.as_secs_f64());
        self.one(&table::GROUP_JOIN_OVERDUE, truth(group.join_overdue));
        let events = group.events.iter();
        self.put(
            &table::GROUP_EVENTS,
            events.map(|&(event, count)| ([event], real(count))),
        );
    }
}
