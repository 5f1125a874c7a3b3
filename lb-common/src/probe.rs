//! Probes through the tunnel: the mark by which `lb_probe` knows a health check's packet and whom it asks.

/// The upper half of the mark (`SO_MARK`) of every probe through the tunnel. Nothing else on the host may use it.
pub const MARK: u32 = 0x7a1d_0000;

/// The bits of [`MARK`]; the others are the backend's index.
pub const MARK_MASK: u32 = 0xffff_0000;

/// The mark of probes to a backend.
#[inline(always)]
pub const fn mark(backend: u16) -> u32 {
    MARK | backend as u32
}

/// The backend that a packet's mark names; `None` where the packet is no probe.
#[inline(always)]
pub const fn backend(mark: u32) -> Option<u16> {
    if mark & MARK_MASK == MARK && mark != MARK {
        Some((mark & !MARK_MASK) as u16)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_name_backends_and_nothing_else_does() {
        for index in [1, 2, 0x1234, u16::MAX] {
            assert_eq!(backend(mark(index)), Some(index));
        }
        for foreign in [0, 1, MARK, MARK ^ 0x8000_0001, 0x7a1c_0001] {
            assert_eq!(backend(foreign), None, "{foreign:#x}");
        }
    }
}
