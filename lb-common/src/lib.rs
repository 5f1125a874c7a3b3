//! The contract between the XDP programs, the agent and the tests: map types and pure algorithms.
//!
//! `no_std`, no allocation; knows no packet pointer and no map, so every function here runs unchanged in the
//! kernel, in `lbd` and in the reference model.

#![cfg_attr(not(test), no_std)]

#[cfg(not(target_endian = "little"))]
compile_error!("map types and the flow hash are defined for little-endian machines");

pub mod abi;
pub mod addr;
pub mod backend;
pub mod be;
pub mod csum;
pub mod ecn;
pub mod encap;
pub mod hash;
pub mod header;
pub mod id;
pub mod info;
pub mod pick;
pub mod slot;
pub mod maglev;
pub mod overlay;
pub mod stats;
pub mod stop;
pub mod tuple;
pub mod vip;
