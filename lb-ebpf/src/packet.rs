//! A frame: bounds-checked typed reads and writes.
//!
//! A [`Packet`] is owned. What moves its head ([`Packet::grow`], [`Packet::shrink`]) consumes it, so no value can
//! outlive the pointers that the verifier has just made invalid; reads copy out at once.

#![expect(unsafe_code, reason = "the one place that turns a frame's bytes into values")]

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use lb_common::addr::Addr;
use lb_common::gue;
use lb_common::header::{Ethernet, Ipv4, Ipv6, Ports, Tcp, Udp, Vlan};

/// A type that any bytes are a value of, without padding.
///
/// # Safety
/// Every bit pattern is a valid value, and the type has neither padding nor pointers.
pub unsafe trait Header: Copy {}

macro_rules! headers {
    ($($t:ty),*) => {
        $(
            // SAFETY: `repr(C)` of integers; lb-common asserts the sizes, so there is no padding.
            unsafe impl Header for $t {}
        )*
    };
}
headers!(
    Ethernet,
    Vlan,
    Ipv4,
    Ipv6,
    Ports,
    Udp,
    Tcp,
    gue::Header,
    gue::Chance,
    Addr,
    u8,
    u16,
    u32,
    u64
);

/// The frame that the program was called for.
pub struct Packet {
    ctx: *mut xdp_md,
}

impl Packet {
    /// The frame of a program's context.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx }
    }

    /// The program's context, for helpers that ask for it.
    #[inline(always)]
    pub fn context(&self) -> *mut xdp_md {
        self.ctx
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the kernel hands every XDP program a valid context.
        unsafe { (*self.ctx).data as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as in `data`.
        unsafe { (*self.ctx).data_end as usize }
    }

    /// Bytes of the frame.
    #[inline(always)]
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.data_end() - self.data()
    }

    /// The same, of which the compiler knows nothing: with a length that it has compared with [`Packet::len`] it would leave
    /// out bounds checks that the verifier wants to see.
    #[inline(always)]
    pub fn opaque_len(&self) -> usize {
        // SAFETY: as in `data`.
        unsafe {
            let start = (&raw const (*self.ctx).data).read_volatile();
            let end = (&raw const (*self.ctx).data_end).read_volatile();
            end as usize - start as usize
        }
    }

    /// The interface that the frame came in by.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: as in `data`.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.data() + offset;
        if start + size_of::<T>() > self.data_end() {
            None
        } else {
            Some(start as *mut T)
        }
    }

    /// A copy of the header at `offset`; `None` where the frame is too short.
    #[inline(always)]
    pub fn read<T: Header>(&self, offset: usize) -> Option<T> {
        // SAFETY: `at` checked the bounds against the frame's end, and any bytes are a `T`.
        self.at(offset).map(|p: *mut T| unsafe { p.read_unaligned() })
    }

    /// Overwrites the header at `offset`; `None` where the frame is too short.
    #[inline(always)]
    pub fn write<T: Header>(&mut self, offset: usize, value: T) -> Option<()> {
        // SAFETY: `at` checked the bounds; the frame is ours alone while the program runs.
        self.at(offset)
            .map(|p: *mut T| unsafe { p.write_unaligned(value) })
    }

    /// The frame with `bytes` more in front; `None` where the driver left too little headroom.
    #[inline(always)]
    pub fn grow(self, bytes: usize) -> Option<Self> {
        self.adjust(-(bytes as i32))
    }

    /// The frame without its first `bytes`.
    #[inline(always)]
    pub fn shrink(self, bytes: usize) -> Option<Self> {
        self.adjust(bytes as i32)
    }

    #[inline(always)]
    fn adjust(self, delta: i32) -> Option<Self> {
        // SAFETY: the context is valid; all pointers into the frame died with `self`.
        (unsafe { bpf_xdp_adjust_head(self.ctx, delta) } == 0).then_some(self)
    }
}
