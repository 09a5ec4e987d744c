//! The simulated disk: that it is a backend like the others, that it repeats, and that it loses what
//! may be lost and nothing else. Then the store over it, through crashes and faults.

mod backend;
mod crashes;
mod damage;
mod faults;
mod hostile;
mod images;
mod memory;
mod model;
mod order;
mod seeds;
mod threads;
mod window;
mod workload;
