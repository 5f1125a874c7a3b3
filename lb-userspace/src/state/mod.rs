//! From a model and what the network says to what the maps should hold, and from there to the writes.
//!
//! All pure: the same [`diff`] serves a first start, an adoption and a reload.

pub mod contents;
pub mod ids;
pub mod ring;
pub mod standing;
pub mod track;
pub mod linger;
pub mod wall;
pub mod operator;
pub mod reduce;
pub mod diff;
pub mod plan;
pub mod repoint;
