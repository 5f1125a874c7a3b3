//! Lab kit.
