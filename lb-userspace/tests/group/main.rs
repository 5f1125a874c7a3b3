//! Machines of a group against a world in which everything goes wrong (docs/adr/0015-groups.md).

mod engine;
mod net;
mod node;
mod rules;
mod runs;
mod world;
