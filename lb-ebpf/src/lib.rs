//! What the programs share: the frame, its link layer, the licence.
//!
//! Every program has a folder: `lb_xdp/` (balancer), `lb_decap/` (backends), `lb_probe/` (health checks, at egress), `lab_pass/` (labs), `bench_*/` (the
//! bench), with one file per stage in the order of a packet's way and a `maps.rs` of its own, since a map in this
//! library would be made by every program. Algorithms live in `lb-common`; only `packet.rs` and the `maps.rs` files
//! are unsafe, the licence's section name below and the frozen `bench_reference/` aside.

#![no_std]

pub mod link;
pub mod packet;

/// A program can't unwind: the verifier would refuse a path that gets here, so none does.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// What the kernel needs to hear before it lends us helpers that are reserved to GPL-compatible programs.
#[expect(
    unsafe_code,
    reason = "the kernel reads the licence from a section of this name"
)]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
