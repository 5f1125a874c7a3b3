//! Every map of `bench_sink`.

#![expect(unsafe_code, reason = "the one place that turns map pointers into values")]

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use lb_common::bench::{SAMPLES, Sample, arrival};
use lb_common::stats::Counter;

/// `bench_arrived`: frames by what they are, per CPU.
#[map(name = "bench_arrived")]
static ARRIVED: PerCpuArray<Counter> = PerCpuArray::with_max_entries(arrival::KINDS, 0);

/// `bench_samples`: frames for a look.
#[map(name = "bench_samples")]
static SAMPLE: Array<Sample> = Array::with_max_entries(SAMPLES, 0);

/// `bench_wanted`: how many samples are still wanted; the bench sets it while nothing arrives.
#[map(name = "bench_wanted")]
static WANTED: Array<u32> = Array::with_max_entries(1, 0);

/// Counts a frame.
#[inline(always)]
pub fn count(kind: u32, bytes: usize) {
    if let Some(counter) = ARRIVED.get_ptr_mut(kind) {
        // SAFETY: the pointer is this CPU's own copy, and XDP programs don't nest on one CPU.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes as u64;
        }
    }
}

/// Where the frame's sample goes, if one is wanted.
#[inline(always)]
pub fn wanted() -> Option<&'static mut Sample> {
    let left = WANTED.get_ptr_mut(0)?;
    // SAFETY: map memory lives as long as the program. Frames arrive on one CPU while samples are wanted; were it two,
    // a sample would mix two frames and be refused.
    unsafe {
        if *left == 0 {
            return None;
        }
        *left -= 1;
        SAMPLE.get_ptr_mut(*left).map(|p| &mut *p)
    }
}
