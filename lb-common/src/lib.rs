//! The contract between the XDP programs, the agent and the tests: map types and pure algorithms.
//!
//! `no_std`, no allocation; knows no packet pointer and no map, so every function here runs unchanged in the
//! kernel, in `lbd` and in the reference model.

#![cfg_attr(not(test), no_std)]

#[cfg(not(target_endian = "little"))]
compile_error!("map types and the flow hash are defined for little-endian machines");

pub mod be;
pub mod addr;
pub mod csum;
pub mod hash;
pub mod id;
pub mod header;
pub mod tuple;
pub mod tick;
pub mod slot;
pub mod maglev;
pub mod overlay;
pub mod tcp;
pub mod flow;
pub mod abi;
pub mod admit;
pub mod retire;
pub mod pick;
pub mod vip;
pub mod backend;
pub mod stats;
pub mod stop;
pub mod ecn;
pub mod gue;
pub mod encap;
pub mod info;
pub mod probe;
pub mod bench;
