//! `lbctl top`: what happens now, on the whole terminal.
//!
//! `model` computes what is shown, `draw` puts it on a frame, `screen` owns the terminal, the keys and the clock.

mod model;
mod draw;
mod screen;

pub(super) use screen::run;
