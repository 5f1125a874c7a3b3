//! What the data plane costs: nanoseconds per packet, packets per second, milliseconds per ring, instructions and memory per program.
//!
//! How it is measured and why so: docs/adr/0006-bench.md.

pub mod object;
pub mod budget;
pub mod case;
pub mod world;
pub mod programs;
pub mod against;
pub mod xdp;
pub mod lab;
pub mod ring;
pub mod verify;
pub mod sync;

/// Release of the running kernel.
fn kernel() -> anyhow::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/osrelease")?
        .trim()
        .to_owned())
}
