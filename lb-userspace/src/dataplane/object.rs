//! The eBPF objects, built by `cargo xtask build-ebpf` and part of the binary.

/// `lb_xdp`: the balancer.
pub static LB_XDP: &[u8] = aya::include_bytes_aligned!(concat!(env!("LB_OBJ_DIR"), "/lb_xdp.o"));
/// `lb_decap`: on backends.
pub static LB_DECAP: &[u8] = aya::include_bytes_aligned!(concat!(env!("LB_OBJ_DIR"), "/lb_decap.o"));
/// `lb_probe`: wraps health checks, at egress.
pub static LB_PROBE: &[u8] = aya::include_bytes_aligned!(concat!(env!("LB_OBJ_DIR"), "/lb_probe.o"));
/// `lab_pass`: the far end of a veth in a lab.
pub static LAB_PASS: &[u8] = aya::include_bytes_aligned!(concat!(env!("LB_OBJ_DIR"), "/lab_pass.o"));
/// SHA-256 of the manifest that names the objects' sources, tools and flags.
pub const HASH: &str = env!("LB_OBJECT_HASH");
