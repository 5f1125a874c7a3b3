//! Every map of `bench_wrap`.

#![expect(unsafe_code, reason = "the one place that turns map pointers into values")]

use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, ProgramArray};
use aya_ebpf::programs::XdpContext;
use lb_common::bench::{Case, PROGRAMS};

/// `bench_case`: what to restore and what to call. Written by the bench before each round.
#[map(name = "bench_case")]
static CASE: PerCpuArray<Case> = PerCpuArray::with_max_entries(1, 0);

/// `bench_programs`: the floor, the reference, and what is measured.
#[map(name = "bench_programs")]
static CALLED: ProgramArray = ProgramArray::with_max_entries(PROGRAMS, 0);

/// This CPU's case.
#[inline(always)]
pub fn case() -> Option<&'static mut Case> {
    // SAFETY: the pointer is this CPU's own copy, and XDP programs don't nest on one CPU.
    CASE.get_ptr_mut(0).map(|p| unsafe { &mut *p })
}

/// Goes on with a program; returns only where there is none.
#[inline(always)]
pub fn call(ctx: &XdpContext, program: u32) {
    // SAFETY: the context is the one that the kernel handed to us, and no pointer into the frame is used later.
    unsafe { CALLED.tail_call(ctx, program) };
}
