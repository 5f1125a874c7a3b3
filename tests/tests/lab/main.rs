//! Labs in network namespaces; they need root and fail without it.

mod agent;
mod attach;
mod cleanup;
mod decap;
mod doctor;
mod health;
mod inspect;
mod kit;
mod nexthop;
mod nodes;
mod operator;
mod overlay;
mod trace;
mod rates;
mod top;
mod tunnel;
mod traces;
