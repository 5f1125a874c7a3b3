//! Labs in network namespaces; they need root and fail without it.

mod kit;
mod nexthop;
