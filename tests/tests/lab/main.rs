//! Labs in network namespaces; they need root and fail without it.

mod agent;
mod attach;
mod cleanup;
mod decap;
mod flows;
mod health;
mod inspect;
mod kit;
mod nexthop;
mod nodes;
mod operator;
mod overlay;
mod protect;
mod trace;
mod rates;
mod top;
mod traces;
