//! The scenarios under schedules drawn from seeds, longer than any model. Compiled to nothing
//! without `--cfg esker_shuttle`:
//!
//! ```text
//! cargo xtask shuttle --package esker-ring
//! ```
#![cfg(esker_shuttle)]

mod scenarios;

macro_rules! tests {
    (models: [$($model:ident),* $(,)?], large: [$($large:ident),* $(,)?] $(,)?) => {
        tests! { $($model)* $($large)* }
    };
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                esker_schedules::explore("esker-ring", stringify!($name), 30, scenarios::$name);
            }
        )*
    };
}

scenarios::every_scenario!(tests);
