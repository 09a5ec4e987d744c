//! Verification suites.
fn main() {}
