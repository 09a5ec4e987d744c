//! The scenarios that loom explores, on real threads.

use crate::scenarios::ALL;

#[test]
fn every_scenario_holds_on_real_threads() {
    for (name, scenario) in ALL {
        for _ in 0..200 {
            let outcome = std::panic::catch_unwind(scenario);
            assert!(outcome.is_ok(), "{name} failed");
        }
    }
}
