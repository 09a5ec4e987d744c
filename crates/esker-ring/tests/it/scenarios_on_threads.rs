//! The scenarios that loom and shuttle explore, on real threads.

use crate::scenarios::{ALL, LARGE};

#[test]
fn every_scenario_holds_on_real_threads() {
    for (name, scenario) in ALL.iter().chain(LARGE) {
        for _ in 0..200 {
            let outcome = std::panic::catch_unwind(scenario);
            assert!(outcome.is_ok(), "{name} failed");
        }
    }
}
