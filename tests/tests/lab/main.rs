//! Labs in network namespaces; they need root and fail without it.

mod agent;
mod attach;
mod changed_agent;
mod changes;
mod cleanup;
mod deaths;
mod decap;
mod flood;
mod flows;
mod health;
mod holding;
mod inspect;
mod kit;
mod long;
mod nexthop;
mod nodes;
mod operator;
mod overlay;
mod restart;
mod steady;
mod trace;
mod rates;
mod top;
mod traces;
