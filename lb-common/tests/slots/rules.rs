//! A switch for each rule. All on: the protocol. One off: there must be a counterexample.

/// The rules that are in force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Not a rule: whether backends die and come back, by verdict or for real, and planned changes are made. Without,
    /// what is left (views that move anywhere, retirement, nodes, records) is little enough to see all of it.
    pub(crate) changes: bool,
    /// Not a rule either: whether sessions between the nodes break, and what is on its way is lost.
    pub(crate) cuts: bool,
    /// A session begins with all own entries, and stale replicas are found.
    pub(crate) resync: bool,
    /// A slot retires when every member votes for it.
    pub(crate) group_retire: bool,
    /// A change of the members voids the vote.
    pub(crate) same_members_vote: bool,
    /// Members vote once more when all are closing and all earlier records are in.
    pub(crate) vote_behind_fence: bool,
    /// A vote doesn't wait for others for an idle timeout.
    pub(crate) votes_age: bool,
    /// The vote counts entries elsewhere.
    pub(crate) vote_counts_entries: bool,
    /// A change of the members restarts the idle timeout.
    pub(crate) members_restart_idle: bool,
    /// Origin first, at all members; untracked only then.
    pub(crate) retire_in_steps: bool,
    /// Retirement and verdicts are finished by the next coordinator.
    pub(crate) finish: bool,
    /// The new origin is named in the message.
    pub(crate) named: bool,
    /// From the vote on `current` stays, at untracked slots too.
    pub(crate) closing_freezes: bool,
    /// While closing, a SYN that can't be entered is dropped.
    pub(crate) closing_drops: bool,
    /// A node's own view moves `current` alone.
    pub(crate) suspect_keeps_origin: bool,
    /// `current` of an untracked slot is never changed.
    pub(crate) track_first: bool,
    /// COMMIT waits for all members' PREPARE.
    pub(crate) prepare_barrier: bool,
    /// A SYN that can't be entered goes to `origin`.
    pub(crate) refused_to_origin: bool,
    /// A SYN follows what stands.
    pub(crate) syn_looks_first: bool,
    /// A handshake in probation isn't replaced by another one.
    pub(crate) syn_holds: bool,
    /// Probation matches by sequence number.
    pub(crate) isn_window: bool,
    /// Records leave at the SYN.
    pub(crate) probation_replicated: bool,
    /// A record for an untracked slot tracks it.
    pub(crate) record_tracks: bool,
    /// A peer's takeover demotes the own entry.
    pub(crate) record_demotes: bool,
    /// A record that an untracked slot agrees with is kept too.
    pub(crate) all_records_kept: bool,
    /// A slot stays tracked at a member that knows of flows elsewhere by then.
    pub(crate) untrack_looks: bool,
    /// A record that displaces an entry for another backend stamps `origin`.
    pub(crate) displacing_stamps: bool,
    /// A takeover removes the replica.
    pub(crate) takeover_removes: bool,
    /// An owner's expiry deletes replicas, and these don't expire before.
    pub(crate) owner_expires: bool,
    /// A joiner takes over slots.
    pub(crate) join_slots: bool,
    /// A joiner takes over entries.
    pub(crate) join_entries: bool,
    /// A verdict's second step waits for all members' first.
    pub(crate) verdict_in_steps: bool,
    /// A verdict deletes entries.
    pub(crate) verdict_deletes: bool,
    /// Entries that name a dead backend count as missing.
    pub(crate) dead_is_missing: bool,
    /// Records that name a dead backend are dropped.
    pub(crate) dead_records_dropped: bool,
    /// Steps end behind the records that were sent before them.
    pub(crate) fence: bool,
    /// A backend that is back gets flows only when all members know it.
    pub(crate) return_by_all: bool,
}

/// All rules.
pub(crate) const ALL: Rules = Rules {
    changes: true,
    cuts: false,
    resync: true,
    group_retire: true,
    displacing_stamps: true,
    vote_behind_fence: true,
    untrack_looks: true,
    all_records_kept: true,
    takeover_removes: true,
    votes_age: true,
    same_members_vote: true,
    vote_counts_entries: true,
    members_restart_idle: true,
    retire_in_steps: true,
    finish: true,
    named: true,
    closing_freezes: true,
    closing_drops: true,
    suspect_keeps_origin: true,
    track_first: true,
    prepare_barrier: true,
    refused_to_origin: true,
    syn_looks_first: true,
    syn_holds: true,
    isn_window: true,
    probation_replicated: true,
    record_tracks: true,
    record_demotes: true,
    owner_expires: true,
    join_slots: true,
    join_entries: true,
    verdict_in_steps: true,
    verdict_deletes: true,
    dead_is_missing: true,
    dead_records_dropped: true,
    fence: true,
    return_by_all: true,
};
