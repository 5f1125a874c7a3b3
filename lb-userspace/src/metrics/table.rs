//! Every metric, once: what is served, the page of the docs, and what alerts and dashboards may name.

/// What kind of number it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows; starts at 0 with what its meaning says.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of observations by size: `_bucket`, `_sum`, `_count`.
    Histogram,
}

impl Kind {
    /// In a word, as in the text format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric with its labels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric<const N: usize> {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: [&'static str; N],
    pub(super) help: &'static str,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// By the naming rules of Prometheus: units are base units and stand in the name, counters end with `_total`.
    pub name: &'static str,
    /// What kind of number.
    pub kind: Kind,
    /// Names of the labels.
    pub labels: &'static [&'static str],
    /// What it means, for people.
    pub help: &'static str,
}

impl<const N: usize> Metric<N> {
    const fn row(&'static self) -> Row {
        Row {
            name: self.name,
            kind: self.kind,
            labels: &self.labels,
            help: self.help,
        }
    }
}

/// Metrics that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// The heading.
    pub title: &'static str,
    /// Where the numbers come from and when they start anew.
    pub about: &'static str,
    /// The metrics.
    pub rows: &'static [Row],
}

/// Every row of every section.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    SECTIONS.iter().flat_map(|section| section.rows)
}

macro_rules! metrics {
    ($($title:literal $about:literal {
        $($const:ident $kind:ident $name:literal [$($label:literal),*] $help:literal)*
    })*) => {
        $($(pub(super) static $const: Metric<{ <[&str]>::len(&[$($label),*]) }> = Metric {
            name: $name,
            kind: Kind::$kind,
            labels: [$($label),*],
            help: $help,
        };)*)*

        /// All metrics.
        pub static SECTIONS: &[Section] = &[
            $(Section { title: $title, about: $about, rows: &[$($const.row()),*] },)*
        ];
    };
}

metrics! {
    "Packets" "Counted by the program in pinned maps, so they go on over a restart and an upgrade of the agent. They start at 0 \
        when the maps are made anew (`lbctl detach`), and for a VIP or backend that leaves the configuration and comes back. Bytes \
        are those of frames as they arrived, before encapsulation." {
        VIP_PACKETS Counter "tandem_vip_packets_total" ["vip", "pool"] "Packets that were forwarded for a VIP."
        VIP_BYTES Counter "tandem_vip_bytes_total" ["vip", "pool"] "Bytes that were forwarded for a VIP."
        BACKEND_PACKETS Counter "tandem_backend_packets_total" ["pool", "backend"] "Packets that were sent to a backend."
        BACKEND_BYTES Counter "tandem_backend_bytes_total" ["pool", "backend"] "Bytes that were sent to a backend."
        STOP_PACKETS Counter "tandem_stop_packets_total" ["reason", "action"]
            "Packets that were not forwarded, by reason; action drop: lost, pass: given to the host's stack."
        STOP_BYTES Counter "tandem_stop_bytes_total" ["reason", "action"] "Bytes that were not forwarded, by reason."
        PICK_PACKETS Counter "tandem_pick_packets_total" ["by"]
            "Packets in tracked slots, by what chose their backend; all others were chosen by their slot alone."
        PICK_BYTES Counter "tandem_pick_bytes_total" ["by"] "Bytes in tracked slots, by what chose their backend."
    }
    "Interfaces" "Those that the program is attached to. Counts are the kernel's own, over all traffic of the interface, and \
        start at 0 when the interface is made anew." {
        INTERFACE_INFO Gauge "tandem_interface_info" ["interface", "mode"]
            "1 for each interface that the program is attached to; mode: native or generic."
        INTERFACE_MTU Gauge "tandem_interface_mtu_bytes" ["interface"] "MTU of an interface."
        RECEIVE_PACKETS Counter "tandem_interface_receive_packets_total" ["interface"] "Packets that an interface received."
        RECEIVE_BYTES Counter "tandem_interface_receive_bytes_total" ["interface"] "Bytes that an interface received."
        RECEIVE_DROPPED Counter "tandem_interface_receive_dropped_total" ["interface"]
            "Packets that an interface received and the kernel dropped for want of room or of a taker."
        TRANSMIT_PACKETS Counter "tandem_interface_transmit_packets_total" ["interface"] "Packets that an interface sent."
        TRANSMIT_BYTES Counter "tandem_interface_transmit_bytes_total" ["interface"] "Bytes that an interface sent."
        TRANSMIT_DROPPED Counter "tandem_interface_transmit_dropped_total" ["interface"]
            "Packets that an interface should have sent and dropped."
    }
    "Pools and backends" "Read from the pinned maps at each scrape; standing and fail-open are the agent's." {
        POOL_BACKENDS Gauge "tandem_pool_backends" ["pool"] "Backends that a pool has in the maps."
        POOL_EMPTY Gauge "tandem_pool_slots_empty" ["pool"]
            "Slots of a pool that name no backend, of 65536: new flows in them are dropped."
        POOL_TRACKED Gauge "tandem_pool_slots_tracked" ["pool"]
            "Slots of a pool that have changed lately, of 65536: the flow table is consulted for them."
        POOL_CLOSING Gauge "tandem_pool_slots_closing" ["pool"] "Tracked slots of a pool whose retirement has begun."
        POOL_FAIL_OPEN Gauge "tandem_pool_fail_open" ["pool"]
            "1 where so much of a checked pool looks down that its checks are doubted and backends that look down are served."
        BACKEND_SLOTS Gauge "tandem_backend_slots" ["pool", "backend"] "Slots by which new flows reach a backend."
        BACKEND_WEIGHT Gauge "tandem_backend_weight" ["pool", "backend"] "A backend's weight in the configuration."
        NEXT_HOP Gauge "tandem_backend_next_hop_resolved" ["pool", "backend"]
            "1 where packets can be sent to a backend; 0: no route or no neighbour, its slots are lent to others."
        STANDING Gauge "tandem_backend_standing" ["pool", "backend", "standing"]
            "1 for what a backend may get, by operator and checks together, 0 for the others: up, draining, suspect, dead."
    }
    "Tracked slots and the flow table" "Counted by the agent's sweeps of the flow table; totals start at 0 with the agent." {
        TABLE_ENTRIES Gauge "tandem_flow_table_entries" ["table"] "Entries of a table at the last sweep."
        TABLE_CAPACITY Gauge "tandem_flow_table_capacity" ["table"]
            "Entries that a table can hold. Tables of flows refuse beyond 90 %; those in probation replace the oldest."
        EXPIRED Counter "tandem_flow_entries_expired_total" [] "Entries that were deleted since their flow was silent or closed."
        PURGED Counter "tandem_flow_entries_purged_total" []
            "Entries that were deleted since their backend is dead or their VIP is gone."
        SWEEPS Counter "tandem_flow_sweeps_total" [] "Sweeps of the flow table that were finished."
        OVERDUE Gauge "tandem_slots_overdue" [] "Slots that have been tracked for longer than they should."
        RETIRED Counter "tandem_slots_retired_total" [] "Slots that retired: no longer tracked."
        REOPENED Counter "tandem_slots_reopened_total" [] "Slots that were closing and had to be opened again."
    }
    "Health" "From the health checks; backends of pools without one have none of these. Totals start at 0 with the agent." {
        PHASE Gauge "tandem_backend_phase" ["pool", "backend", "phase"]
            "1 for what a backend's checks amount to, 0 for the others: unknown, up, draining, suspect, dead."
        PHASE_SINCE Gauge "tandem_backend_phase_since_timestamp_seconds" ["pool", "backend"]
            "When a backend came into its phase, Unix time."
        PHASE_CHANGES Counter "tandem_backend_phase_changes_total" ["pool", "backend"] "Changes of a backend's phase."
        HEALTH_INFO Gauge "tandem_backend_health_info" ["pool", "backend", "check", "reason"]
            "Always 1; reason: why a backend is in its phase, shortened, numbers other than a status as #."
        PROBES Counter "tandem_probe_results_total" ["pool", "backend", "outcome"]
            "Answers to probes: good, refuses, silent (none in time), unasked (this host could not ask)."
        PROBE_DURATION Gauge "tandem_probe_last_duration_seconds" ["pool", "backend"]
            "From the last question to its answer, or to giving up."
        PROBE_TIME Gauge "tandem_probe_last_timestamp_seconds" ["pool", "backend"] "When the last answer came, Unix time."
    }
    "Readiness and the group" "Readiness of every node; the rest where the nodes of the group talk. Totals start at 0 with the agent." {
        READY Gauge "tandem_ready" []
            "1 where this node may attract traffic, 0 where it may not: `lbctl ready` says why. A node that is alone may as soon as it forwards."
        GROUP_MEMBERS Gauge "tandem_group_members" [] "Nodes whose word counts in the group, this one among them if it is one."
        GROUP_LIVE Gauge "tandem_group_members_live" []
            "Of those, the ones that this node can reach. Planned changes and retirements wait for the others."
        GROUP_COORDINATES Gauge "tandem_group_coordinates" [] "1 where this node gives the group's orders."
        GROUP_PHASE Gauge "tandem_group_phase" ["phase"]
            "1 for what this node, coordinating, has under way, 0 for the others: change, verdict, burial, retirement, admission, recovery."
        GROUP_WAITS_FOR Gauge "tandem_group_waits_for" [] "Members whose answers to the order under way are missing."
        GROUP_ADRIFT Gauge "tandem_group_adrift" []
            "Nodes that are no members and may forward all the same, in a partition: no slot retires until they are back or forgotten, for up to `group.max_tracked`."
        GROUP_WAITING Gauge "tandem_group_waiting_seconds" []
            "For how long the order under way has been waiting for answers; 0 where none does. A sweep's time is usual."
        GROUP_JOIN_OVERDUE Gauge "tandem_group_join_overdue" []
            "1 where this node has tried to join its group for longer than join_within, until it is a member."
        GROUP_EVENTS Counter "tandem_group_events_total" ["event"]
            "What happened in the group; of nodes that went: left, silent, forgotten, restarted; of phases, which the coordinator alone counts: change, change_given_up, verdict, burial, retirement, reopening, recovery."
    }
    "Peers" "The other nodes of the group, where the nodes have addresses; else none of these. Totals start at 0 with the agent." {
        PEER_STATE Gauge "tandem_peer_state" ["peer", "state"]
            "1 for the state of another node, 0 for the others: unknown (never heard), joining, alive, suspect, dead."
        PEER_SINCE Gauge "tandem_peer_state_since_timestamp_seconds" ["peer"] "When another node came into its state, Unix time."
        PEER_SESSIONS Counter "tandem_peer_sessions_total" ["peer"] "Connections with another node that came about."
        PEER_RTT Gauge "tandem_peer_rtt_seconds" ["peer"] "Round trip to another node; missing while there is no connection."
        HEARTBEATS_SENT Counter "tandem_peer_heartbeats_sent_total" ["peer"] "Heartbeats that were sent to another node."
        HEARTBEATS_HEARD Counter "tandem_peer_heartbeats_heard_total" ["peer"] "Heartbeats that came from another node."
        HEARTBEATS_MISSED Counter "tandem_peer_heartbeats_missed_total" ["peer"]
            "Heartbeats that another node sent and that were lost, or came late."
        PEER_SAME Gauge "tandem_peer_same" ["peer", "what"]
            "1 where another node that lives has the same as this one, 0 where it differs; what: config, rings, origins (which differ for a moment while slots retire), down (the backends that don't take flows to its checks)."
        PEER_DIFFERS Gauge "tandem_peer_differs_seconds" ["peer", "what"]
            "For how long another node that lives has had something else than this one while both are ready; 0 where they agree."
        PEER_REFUSED Counter "tandem_peer_refused_total" ["reason"]
            "Connections, streams and datagrams that were refused, by reason. Of what comes from elsewhere than a node (stranger) one in 16 is seen."
        CERTIFICATE_EXPIRY Gauge "tandem_certificate_expiry_timestamp_seconds" ["certificate"]
            "Until when a certificate is good, Unix time; certificate: ca, own, or the name of another node as peer:NAME."
        CERTIFICATE_RELOAD Gauge "tandem_certificate_reload_successful" []
            "0 where the certificates' files hold something that can't be used, so that older ones are."
    }
    "Flow records" "What this node and the others tell each other of flows, where they talk; else none of these. Totals of a peer start at 0 with each session." {
        SYNC_EVENTS Counter "tandem_sync_events_total" [] "What the program told of its flows, since the agent started."
        SYNC_LOST Counter "tandem_sync_events_lost_total" []
            "What it could not tell since it was loaded, as the agent did not read fast enough: repaired within seconds."
        SYNC_READ Counter "tandem_sync_table_read_seconds_total" []
            "Time on a CPU for reading whole flow tables, once a second each, since the agent started."
        SYNC_SESSION Gauge "tandem_sync_session" ["peer"] "1 where flow records can pass between this node and another one."
        SYNC_LAG Gauge "tandem_sync_lag_seconds" ["peer", "share"]
            "From an event here to its entry at another node and the answer, over the last minute at most; quantile: 0.5, 0.99."
        SYNC_SENT Counter "tandem_sync_records_sent_total" ["peer"] "Records to another node."
        SYNC_SENT_BYTES Counter "tandem_sync_sent_bytes_total" ["peer"] "Their bytes, before encryption."
        SYNC_UNACKNOWLEDGED Gauge "tandem_sync_records_unacknowledged" ["peer"] "Records on the way to another node, or not merged there yet."
        SYNC_SKIPPED Counter "tandem_sync_records_skipped_total" ["peer"]
            "Records that another node was too slow for; it got everything afterwards."
        SYNC_DEGRADED Gauge "tandem_sync_degraded" ["peer"] "1 while another node is too slow and gets no records."
        SYNC_RESYNCS Counter "tandem_sync_resyncs_sent_total" ["peer"] "How often all entries were sent to another node."
        SYNC_REPAIRS Counter "tandem_sync_repairs_sent_total" ["peer"] "Ranges of slots that another node asked for and got."
        SYNC_PENDING Gauge "tandem_sync_repairs_pending" ["peer"]
            "Ranges of slots that another node asked for and has not got yet: more than one round has time or room for."
        SYNC_RECEIVED Counter "tandem_sync_records_received_total" ["peer"] "Records from another node."
        SYNC_RECEIVED_BYTES Counter "tandem_sync_received_bytes_total" ["peer"] "Bytes from it, before encryption."
        SYNC_DROPPED Counter "tandem_sync_records_dropped_total" ["peer", "reason"]
            "Records of another node that changed nothing here; reason: no_vip, no_backend, foreign_backend, dead_backend, not_owner, unyielding."
        SYNC_REPAIRED Counter "tandem_sync_repairs_received_total" ["peer"] "Ranges of slots that another node has repaired here."
        SYNC_FOUND Counter "tandem_sync_entries_found_total" ["peer"]
            "Entries of another node that were missing here, and that refreshes, resyncs and repairs brought."
        SYNC_DIFFERING Gauge "tandem_sync_ranges_differing" ["peer"]
            "Ranges of slots, of 4096, in which another node's entries differed from those here when they were compared last; a few of them are noise."
        SYNC_LASTING Gauge "tandem_sync_ranges_differing_long" ["peer"] "Of those, the ones that have differed for half a minute."
    }
    "Configuration and programming" "Totals start at 0 with the agent; generations count on over restarts." {
        DESIRED Gauge "tandem_generation_desired" [] "Number of the configuration that the agent wants in force."
        APPLIED Gauge "tandem_generation_applied" [] "Number of the configuration that the pinned maps say they hold."
        APPLIED_TIME Gauge "tandem_generation_applied_timestamp_seconds" [] "When the maps got it, Unix time."
        IN_STEP Gauge "tandem_maps_in_step" []
            "1 where the last attempt to bring the maps to what they should hold went through."
        RING_BUILDS Counter "tandem_ring_builds_total" [] "Rings that were computed; those computed before are kept."
        SLOTS_CHANGED Counter "tandem_slots_changed_total" [] "Slots that were written with another value: a backend, or a mark of tracking."
        MAP_WRITES Counter "tandem_map_writes_total" [] "Changes that were written to the maps, a whole ring counting as one."
        RELOAD_OK Gauge "tandem_config_last_reload_successful" []
            "1 where the last configuration that was given (start, reload or apply) was accepted."
        RELOAD_TIME Gauge "tandem_config_last_reload_success_timestamp_seconds" [] "When one was accepted last, Unix time."
        RELOADS Counter "tandem_config_reloads_total" ["result"] "Configurations that were given: applied or refused."
    }
    "The group's configuration" "Of a node whose group's nodes talk; others have none of these." {
        CHARTER Gauge "tandem_charter_generation" []
            "Number of the group's configuration and orders that this node has; 0: nothing was agreed on."
        CHARTER_PENDING Gauge "tandem_charter_pending" [] "1 where this node has accepted a generation that is not decided."
        CHARTER_EQUAL Gauge "tandem_charter_equal" []
            "1 where all live peers have the same generation; 0 also before they have said so."
        CHARTER_IN_FORCE Gauge "tandem_charter_in_force" [] "1 where this node runs the generation that it has."
        CHARTER_DRIFT Gauge "tandem_charter_drift" []
            "1 where this node's file says something else than the group's configuration, which stays in force."
        CHARTER_MALFORMED Counter "tandem_charter_malformed_messages_total" []
            "Messages of peers about the configuration that could not be read, since the agent started."
    }
    "The agent" "Start at 0 with the agent." {
        BUILD Gauge "tandem_build_info" ["version", "object", "node"]
            "Always 1; object: the beginning of the SHA-256 of the eBPF programs that this agent brings."
        API_REQUESTS Counter "tandem_api_requests_total" ["method", "path", "code"] "Requests to the API, by the answer's status."
        LOOP_DELAY Histogram "tandem_loop_delay_seconds" []
            "How much later than it asked for the agent's loop wakes up, looked at every half second."
        PART_SUCCESS Gauge "tandem_scrape_part_success" ["part"]
            "1 where a part of this answer could be collected: maps, interfaces, health. Metrics of a part that could not are missing."
        COLLECT_DURATION Gauge "tandem_scrape_collect_duration_seconds" []
            "How long it took to collect this answer. Scrapes within 200 ms share one."
        CPU Counter "process_cpu_seconds_total" [] "Total user and system CPU time spent in seconds."
        OPEN_FDS Gauge "process_open_fds" [] "Number of open file descriptors."
        MAX_FDS Gauge "process_max_fds" [] "Maximum number of open file descriptors."
        VIRTUAL_MEMORY Gauge "process_virtual_memory_bytes" [] "Virtual memory size in bytes."
        RESIDENT_MEMORY Gauge "process_resident_memory_bytes" [] "Resident memory size in bytes."
        START_TIME Gauge "process_start_time_seconds" [] "Start time of the process since unix epoch in seconds."
        THREADS Gauge "process_threads" [] "Number of OS threads in the process."
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_rules() {
        let mut seen = BTreeSet::new();
        for row in rows() {
            let name = row.name;
            assert!(seen.insert(name), "{name} twice");
            let legal = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(
                legal(name) && name.starts_with("tandem_") || name.starts_with("process_"),
                "{name}"
            );
            assert_eq!(name.ends_with("_total"), row.kind == Kind::Counter, "{name}");
            for unit in ["_milliseconds", "_ms", "_us", "_kb", "_percent"] {
                assert!(!name.contains(unit), "{name}: base units alone");
            }
            if name.ends_with("_info") || name.ends_with("_timestamp_seconds") {
                assert_eq!(row.kind, Kind::Gauge, "{name}");
            }
            assert!(
                row.help.ends_with('.') && !row.help.contains('\n'),
                "{name}: {}",
                row.help
            );
            let labels: BTreeSet<_> = row.labels.iter().collect();
            assert_eq!(labels.len(), row.labels.len(), "{name}");
            // `le` and `quantile` are the text format's own; `job` and `instance` the scraper's.
            let taken = ["le", "quantile", "job", "instance"];
            assert!(
                row.labels.iter().all(|l| legal(l) && !taken.contains(l)),
                "{name}"
            );
        }
    }
}
