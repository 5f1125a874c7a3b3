//! Next hops from the kernel.
