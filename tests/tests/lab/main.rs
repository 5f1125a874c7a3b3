//! Labs in network namespaces; they need root and fail without it.

mod agent;
mod attach;
mod cleanup;
mod decap;
mod kit;
mod nexthop;
mod nodes;
mod operator;
mod overlay;
mod traces;
