//! Every map of `bench_generate`.

#![expect(unsafe_code, reason = "the one place that turns map pointers into values")]

use aya_ebpf::macros::map;
use aya_ebpf::maps::{DevMap, PerCpuArray};
use lb_common::bench::{LINKS, Template};

/// `bench_template`: what to make. Written by the bench before each turn.
#[map(name = "bench_template")]
static TEMPLATE: PerCpuArray<Template> = PerCpuArray::with_max_entries(1, 0);

/// `bench_links`: where frames can go to.
#[map(name = "bench_links")]
static TARGETS: DevMap = DevMap::with_max_entries(LINKS, 0);

/// This CPU's template.
#[inline(always)]
pub fn template() -> Option<&'static mut Template> {
    // SAFETY: the pointer is this CPU's own copy, and XDP programs don't nest on one CPU.
    TEMPLATE.get_ptr_mut(0).map(|p| unsafe { &mut *p })
}

/// The verdict that sends the frame to a link; `None` where there is none.
#[inline(always)]
pub fn send(link: u32) -> Option<u32> {
    TARGETS.redirect(link, 0).ok()
}
