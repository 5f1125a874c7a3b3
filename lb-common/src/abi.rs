//! Names and sizes that programs, agent and `lbctl` agree on.

/// Raised with every change of a map's key, value or meaning. An agent never adopts maps of another version.
/// `lb_decap`'s maps carry none: attaching writes their entries anew, and their shapes are compared.
pub const ABI_VERSION: u32 = 4;

/// The program on client-facing interfaces.
pub const LB_XDP: &str = "lb_xdp";
/// The program on backends.
pub const LB_DECAP: &str = "lb_decap";
/// The program that wraps health checks, where they leave this host.
pub const LB_PROBE: &str = "lb_probe";
/// A program that passes everything: the far end of a veth needs one.
pub const LAB_PASS: &str = "lab_pass";

/// Names of maps, at most 15 bytes: the kernel cuts longer ones.
pub mod map {
    /// ARRAY of [`crate::vip::Cell`], a perfect hash, mmap-able.
    pub const VIPS: &str = "lb_vips";
    /// ARRAY pool × 65,536 + slot → [`crate::slot::Slot`], mmap-able.
    pub const SLOTS: &str = "lb_slots";
    /// ARRAY backend index → [`crate::backend::Entry`].
    pub const BACKENDS: &str = "lb_backends";
    /// DEVMAP_HASH interface index → device.
    pub const DEVICES: &str = "lb_devices";
    /// PERCPU_ARRAY VIP index → [`crate::stats::Counter`].
    pub const VIP_STATS: &str = "lb_vip_stats";
    /// PERCPU_ARRAY backend index → [`crate::stats::Counter`].
    pub const BACKEND_STATS: &str = "lb_be_stats";
    /// PERCPU_ARRAY [`crate::stop::Stop`] → [`crate::stats::Counter`].
    pub const STOPS: &str = "lb_stops";
    /// ARRAY of one [`crate::info::Meta`].
    pub const META: &str = "lb_meta";
    /// ARRAY pool index → [`crate::info::Pool`].
    pub const POOL_INFO: &str = "lb_pool_info";
    /// ARRAY backend index → [`crate::info::Backend`].
    pub const BACKEND_INFO: &str = "lb_be_info";
    /// ARRAY → [`crate::info::Interface`].
    pub const IFACE_INFO: &str = "lb_iface_info";

    /// HASH, preallocated: [`crate::flow::Key`] → [`crate::flow::Entry`], confirmed and closed TCP flows of this node.
    pub const FLOWS: &str = "lb_flows";
    /// HASH, preallocated: the same, what peers announced, in any state.
    pub const REPLICAS: &str = "lb_replicas";
    /// LRU_HASH without a common list: the same, SYNs of this node.
    pub const PROBATION: &str = "lb_probation";
    /// HASH, allocated as it fills: the same, UDP flows.
    pub const UDP_FLOWS: &str = "lb_udp_flows";
    /// LRU_HASH without a common list: the same, first packets of UDP flows.
    pub const UDP_PROBATION: &str = "lb_udp_new";
    /// LRU_HASH [`crate::flow::Key`] → [`crate::tick::Tick`]: when a flow without an entry was first seen.
    pub const MISSES: &str = "lb_misses";
    /// ARRAY pool × 65,536 + slot → [`crate::retire::Uses`], mmap-able.
    pub const USES: &str = "lb_uses";
    /// PERCPU_ARRAY → [`crate::admit::Budget`], see [`crate::admit`].
    pub const BUDGETS: &str = "lb_budgets";
    /// RINGBUF of [`crate::flow::Event`]s.
    pub const EVENTS: &str = "lb_events";
    /// PERCPU_ARRAY of one [`crate::stats::Counter`]: events that found [`EVENTS`] full.
    pub const LOST: &str = "lb_lost";

    /// ARRAY of one [`crate::admit::Limits`].
    pub const LIMITS: &str = "lb_limits";
    /// PERCPU_ARRAY [`crate::pick::By`] → [`crate::stats::Counter`].
    pub const PICKS: &str = "lb_picks";

    /// All of `lb_xdp`'s pinned maps.
    pub const ALL: [&str; 23] = [
        VIPS,
        SLOTS,
        BACKENDS,
        DEVICES,
        VIP_STATS,
        BACKEND_STATS,
        STOPS,
        META,
        POOL_INFO,
        BACKEND_INFO,
        IFACE_INFO,
        FLOWS,
        REPLICAS,
        PROBATION,
        UDP_FLOWS,
        UDP_PROBATION,
        MISSES,
        USES,
        BUDGETS,
        EVENTS,
        LOST,
        LIMITS,
        PICKS,
    ];

    /// LPM_TRIE of outer sources that `lb_decap` takes packets from → IP version, 4 or 6.
    pub const DECAP_ALLOW: &str = "lb_decap_allow";
    /// PERCPU_ARRAY [`crate::stop::DecapStop`] → [`crate::stats::Counter`].
    pub const DECAP_STOPS: &str = "lb_decap_stops";
    /// PERCPU_ARRAY [`crate::stats::decap`] → [`crate::stats::Counter`]: what became of packets in tunnels.
    pub const DECAP_STATS: &str = "lb_decap_stats";

    /// PERCPU_ARRAY backend index → [`crate::stats::Counter`]: packets that `lb_probe` wrapped; beside [`BACKENDS`].
    pub const PROBE_STATS: &str = "lb_probe_stats";

    /// ARRAY of one u32: the UDP port that `lb_decap` takes for GUE, 0 = none.
    pub const DECAP_PORT: &str = "lb_decap_port";

    /// All of `lb_decap`'s pinned maps.
    pub const DECAP: [&str; 4] = [DECAP_ALLOW, DECAP_STOPS, DECAP_STATS, DECAP_PORT];
}

/// The program's constant that holds the expanded key of the flow hash, [`crate::hash::Key`].
pub const FLOW_KEY: &str = "FLOW_KEY";

/// The program's constant that tells the size of [`map::VIPS`], see [`crate::vip::shift`].
pub const VIP_SHIFT: &str = "VIP_SHIFT";

/// Indexes in [`map::BUDGETS`].
pub mod budget {
    /// SYNs entered in [`super::map::PROBATION`].
    pub const HANDSHAKES: u32 = 0;
    /// First packets entered in [`super::map::UDP_PROBATION`].
    pub const UDP: u32 = 1;
    /// Notes in [`super::map::MISSES`].
    pub const MISSES: u32 = 2;
    /// How many there are.
    pub const COUNT: u32 = 3;
}

/// Entries of [`map::FLOWS`] where the configuration doesn't say: about 27 MB.
pub const FLOWS: u32 = 1 << 18;
/// Entries of [`map::REPLICAS`] for so many of [`map::FLOWS`] in a group of nodes.
pub const fn replicas(flows: u32) -> u32 {
    2 * flows
}
/// The same for a node without a group key, which nobody can announce anything to.
pub const NO_REPLICAS: u32 = 1;
/// Entries of [`map::PROBATION`] for each possible CPU: an LRU map without a common list gives every CPU its share. On a
/// machine with very many of them they share four times [`map::FLOWS`].
pub const fn probation(flows: u32, cpus: u32) -> u32 {
    at_least_one(if cpus > 64 { 4 * flows / cpus } else { flows / 16 })
}
/// Entries of [`map::UDP_FLOWS`].
pub const fn udp_flows(flows: u32) -> u32 {
    flows / 2
}
/// Entries of [`map::UDP_PROBATION`] for each possible CPU.
pub const fn udp_probation(flows: u32, cpus: u32) -> u32 {
    at_least_one(probation(flows, cpus) / 4)
}
/// Entries of [`map::MISSES`], which all CPUs share: of these the kernel keeps up to 128 aside for each
/// (`LOCAL_FREE_TARGET` in its `bpf_lru_list.c`), and as many more are for notes where [`map::FLOWS`] is small.
pub const fn misses(flows: u32, cpus: u32) -> u32 {
    flows / 4 + 2 * MISSES_ASIDE * cpus
}
/// Entries of [`map::MISSES`] that are kept aside for one CPU.
pub const MISSES_ASIDE: u32 = 128;

const fn at_least_one(n: u32) -> u32 {
    if n == 0 { 1 } else { n }
}

/// Bytes of [`map::EVENTS`], a power of two: 65,536 records less their headers.
pub const EVENTS: u32 = 1 << 22;

/// Interfaces that the program can be attached to at once.
pub const MAX_INTERFACES: u32 = 64;
/// Prefixes that `lb_decap` can allow.
pub const MAX_DECAP_PREFIXES: u32 = 1024;
/// Interfaces that packets can leave by.
pub const MAX_DEVICES: u32 = 256;

const _: () = {
    let mut i = 0;
    while i < map::ALL.len() {
        assert!(map::ALL[i].len() <= 15);
        i += 1;
    }
    let mut i = 0;
    while i < map::DECAP.len() {
        assert!(map::DECAP[i].len() <= 15);
        i += 1;
    }
};
