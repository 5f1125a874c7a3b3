//! The XDP programs in the real kernel through `BPF_PROG_TEST_RUN`: fixtures, one file per stage, and random packets
//! against the reference model. Needs root; without it every test fails and says so.

mod net;
mod frame;
mod world;
mod kernel;
mod fixture;

mod parse;
mod truncated;
mod vip;
mod slot;
mod flow;
mod encap;
mod gue;
mod tx;
mod stats;
mod decap;
mod decap_ecn;
mod second;
mod probe;
mod bench;
mod trace;

mod generate;
mod mutate;
mod differential;
mod sequence;

mod replication;
