//! Where start-up time goes, stage by stage.

use std::fmt::Write as _;
use std::mem::MaybeUninit;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// A stopwatch that starts when the process was executed.
///
/// The kernel does not tell a process when it was executed with a useful
/// resolution; the CPU time it has used until `main` is the best stand-in,
/// and includes loading the program.
#[derive(Debug)]
pub struct Timings {
    main: Instant,
    before_main: Duration,
    stages: Mutex<Vec<(&'static str, Duration)>>,
    /// Page faults of the process until its guest ran, if they are counted.
    faults: OnceLock<i64>,
}

impl Timings {
    /// Starts the watch; call it first thing in `main`.
    pub fn start() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let before_main = Duration::new(
            u64::try_from(cpu.tv_sec).unwrap_or(0),
            u32::try_from(cpu.tv_nsec).unwrap_or(0),
        );
        Self {
            main: Instant::now(),
            before_main,
            stages: Mutex::new(Vec::with_capacity(16)),
            faults: OnceLock::new(),
        }
    }

    /// Time since the process was executed.
    pub fn elapsed(&self) -> Duration {
        self.main.elapsed() + self.before_main
    }

    /// Notes that `stage` has just ended.
    pub fn mark(&self, stage: &'static str) {
        let now = self.elapsed();
        if let Ok(mut stages) = self.stages.lock() {
            stages.push((stage, now));
        }
    }

    /// The guest is about to run: what faults from here on is counted.
    pub fn count_faults(&self) {
        // Once: this function is called once.
        let _ = self.faults.set(faults());
    }

    /// What each stage took.
    pub fn stages(&self) -> Vec<(&'static str, Duration)> {
        let stages = self.stages.lock();
        let stages = stages.as_deref().map_or(&[][..], Vec::as_slice);
        let mut last = self.before_main;
        let mut took = |&(name, at): &(&'static str, Duration)| {
            let took = at.saturating_sub(last);
            last = last.max(at);
            (name, took)
        };
        stages.iter().map(&mut took).collect()
    }

    /// A table of all stages: µs for the stage, µs since exec, its name; and the
    /// faults that were left for the guest.
    pub fn table(&self) -> String {
        let mut text = format!("{:>9} {:>9}  stage\n", "us", "at");
        let mut row = |name: &str, from: Duration, to: Duration| {
            let (took, at) = ((to.saturating_sub(from)).as_micros(), to.as_micros());
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{took:>9} {at:>9}  {name}");
        };
        row("exec to main (CPU time)", Duration::ZERO, self.before_main);
        let mut last = self.before_main;
        if let Ok(stages) = self.stages.lock() {
            for &(name, at) in stages.iter() {
                row(name, last, at);
                last = last.max(at);
            }
        }
        if let Some(before) = self.faults.get() {
            let left = faults().saturating_sub(*before);
            let _ = writeln!(text, "{left:>19}  page faults since the guest runs");
        }
        text
    }
}

/// Page faults of this process, those of its guest among them.
fn faults() -> i64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: a live structure of the right type, which is integers only.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_minflt.saturating_add(usage.ru_majflt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_listed_in_order_and_never_run_backwards() {
        let timings = Timings::start();
        timings.mark("one");
        timings.mark("two");
        let table = timings.table();
        let at: Vec<u64> = table
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
            .collect();
        assert_eq!(at.len(), 3);
        assert!(at.is_sorted());
        assert!(table.find("one").unwrap() < table.find("two").unwrap());
    }
}
