//! Known bugs that a suite has to catch, each under the condition `canary!(NAME)`.
//!
//! In an ordinary build the condition is the constant `false`. `--cfg esker_canary` compiles all of
//! them in, and the variable `ESKER_CANARY` of the environment switches one on. It is read once, into
//! a cell of std's whichever checker runs: looking at it is no point of any schedule.

/// Whether the known bug of this name is switched on.
#[cfg(not(esker_canary))]
macro_rules! canary {
    ($name:literal) => {
        false
    };
}

/// Whether the known bug of this name is switched on.
#[cfg(esker_canary)]
macro_rules! canary {
    ($name:literal) => {
        $crate::canary::is_on($name)
    };
}

#[cfg(esker_canary)]
pub(crate) fn is_on(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("ESKER_CANARY").ok());
    chosen.as_deref() == Some(name)
}
