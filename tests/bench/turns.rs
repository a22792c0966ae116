//! Programs that are run by turns, and a table of how long they took.

use std::error::Error;
use std::ffi::OsString;

use super::timed;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A program to time, and what came out.
pub struct Series {
    name: &'static str,
    command: Vec<OsString>,
    times: Vec<timed::Times>,
}

impl Series {
    pub fn new(name: &'static str, command: Vec<OsString>) -> Self {
        Self { name, command, times: Vec::new() }
    }
}

/// Runs all so often, each in turn.
pub fn run(all: &mut [Series], warmups: usize, runs: usize) -> Result<()> {
    let total = warmups + runs;
    for round in 0..total {
        // Nobody always comes after the same one.
        all.rotate_left(1);
        for series in &mut *all {
            let times = timed::run_timed(&series.command);
            let times = times.map_err(|e| format!("{}: {e}", series.name))?;
            if round >= warmups {
                series.times.push(times);
            }
        }
    }
    let turns = total % all.len();
    all.rotate_right(turns);
    Ok(())
}

/// Prints a block of the table; the ratio is that of the medians to the first
/// series.
pub fn print(what: &str, all: &[Series], pick: impl Fn(&timed::Times) -> f64) {
    let mut reference = None;
    for (i, series) in all.iter().enumerate() {
        let mut values: Vec<f64> = series.times.iter().map(&pick).collect();
        values.sort_by(f64::total_cmp);
        let median = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
        let ratio = median / *reference.get_or_insert(median);
        let what = if i == 0 { what } else { "" };
        let max = values[values.len() - 1];
        println!(
            "{what:<20}{:<21}{median:>8.0}{:>9.0}{max:>9.0}{ratio:>9.2}",
            series.name, values[0]
        );
    }
}
