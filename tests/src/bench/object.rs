//! The bench's own eBPF objects. The agent's are in `lb_userspace::dataplane::object`; these need not be in it.

/// `bench_wrap`: restores the frame and tail-calls what is measured.
pub static WRAP: &[u8] = aya::include_bytes_aligned!(concat!(env!("LB_OBJ_DIR"), "/bench_wrap.o"));
/// `bench_floor`: returns `XDP_TX`.
pub static FLOOR: &[u8] = aya::include_bytes_aligned!(concat!(env!("LB_OBJ_DIR"), "/bench_floor.o"));
/// `bench_reference`: the yardstick.
pub static REFERENCE: &[u8] = aya::include_bytes_aligned!(concat!(env!("LB_OBJ_DIR"), "/bench_reference.o"));
/// `bench_generate`: makes live frames.
pub static GENERATE: &[u8] = aya::include_bytes_aligned!(concat!(env!("LB_OBJ_DIR"), "/bench_generate.o"));
/// `bench_sink`: counts and drops them.
pub static SINK: &[u8] = aya::include_bytes_aligned!(concat!(env!("LB_OBJ_DIR"), "/bench_sink.o"));
