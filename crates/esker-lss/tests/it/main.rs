//! The store from outside: every promise of its documentation has a test here that would fail if it
//! did not hold.
#![allow(
    clippy::cast_possible_truncation,
    reason = "small numbers become fill bytes"
)]

mod appending;
mod commit;
mod concurrency;
mod faulty;
mod follow;
mod forking;
mod futures;
mod idle;
mod images;
mod layers;
mod lifecycle;
mod poison;
mod read_many;
mod reading;
mod space;
mod support;
