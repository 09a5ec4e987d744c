//! What the benches share: medians, and a table of ratios against a baseline of the same run.
//!
//! Absolute figures drift with the machine; a ratio of two figures that were measured in turn does
//! not. So every bench here runs its cells in rounds, one after the other, and reports the median of
//! each and its ratio to a named baseline.

use std::time::{Duration, Instant};

/// Cells that are measured in turn, in rounds.
#[derive(Default)]
pub struct Rounds {
    cells: Vec<Cell>,
}

struct Cell {
    name: String,
    unit: &'static str,
    figures: Vec<f64>,
}

impl Rounds {
    /// Adds a figure to the cell of that name, which is made if it is new.
    pub fn add(&mut self, name: &str, unit: &'static str, figure: f64) {
        match self.cells.iter_mut().find(|cell| cell.name == name) {
            Some(cell) => cell.figures.push(figure),
            None => {
                self.cells.push(Cell {
                    name: name.to_owned(),
                    unit,
                    figures: vec![figure],
                });
            }
        }
    }

    /// Prints each cell's median, range and ratio to the cell named `baseline`.
    pub fn print(&self, baseline: &str) {
        let base = self
            .cells
            .iter()
            .find(|cell| cell.name == baseline)
            .map(|cell| median(&cell.figures));
        println!(
            "{:<44} {:>12} {:>25} {:>10}",
            "", "median", "min .. max", "ratio"
        );
        for cell in &self.cells {
            let middle = median(&cell.figures);
            let min = cell.figures.iter().copied().fold(f64::INFINITY, f64::min);
            let max = cell
                .figures
                .iter()
                .copied()
                .fold(f64::NEG_INFINITY, f64::max);
            let ratio = base.map_or(String::new(), |base| format!("{:.2}", middle / base));
            println!(
                "{:<44} {:>9.2} {} {:>12.2} .. {:>10.2} {:>9}",
                cell.name, middle, cell.unit, min, max, ratio
            );
        }
    }
}

/// The middle of the figures; the mean of the two middle ones for an even count.
#[must_use]
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// How long `body` takes, and what it returns.
pub fn timed<T>(body: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = body();
    (start.elapsed(), value)
}

/// CPU time that this process has used so far, user and system.
#[must_use]
pub fn cpu_time() -> Duration {
    // SAFETY: `getrusage` fills the structure in, which is valid when zeroed.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let of = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs())
            + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    of(usage.ru_utime) + of(usage.ru_stime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }
}
