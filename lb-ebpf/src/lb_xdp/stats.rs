//! Last stage: one write per counter, per CPU.

use aya_ebpf::bindings::xdp_action;
use lb_common::stop::{Action, Stop};
use lb_common::vip::Value;

use crate::maps;

/// Counts a forwarded packet; `bytes` is the frame's length as it arrived.
#[inline(always)]
pub fn forwarded(vip: &Value, backend: u16, bytes: usize) {
    maps::count_vip(vip.index, bytes);
    maps::count_backend(backend, bytes);
}

/// Counts a packet that stopped, and gives its verdict.
#[inline(always)]
pub fn stopped(stop: Stop, bytes: usize) -> u32 {
    maps::count_stop(stop, bytes);
    match stop.action() {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
    }
}
