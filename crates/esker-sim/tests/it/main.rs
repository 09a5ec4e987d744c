//! The simulated disk: that it is a backend like the others, that it repeats, and that it loses what
//! may be lost and nothing else.

mod backend;
