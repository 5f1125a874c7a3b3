//! `lb-common`'s types as aya's.

#![expect(
    unsafe_code,
    reason = "aya asks for an unsafe promise that zerocopy has checked"
)]

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A map type of `lb-common`, for aya's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub T);

// SAFETY: `IntoBytes` says that there is no padding, `FromBytes` that any bytes are a value.
unsafe impl<T: IntoBytes + FromBytes + Immutable + Copy + 'static> aya::Pod for Plain<T> {}
