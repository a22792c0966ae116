//! The guest's clocks, which have to agree: its vCPUs' time stamp counters, KVM's
//! clock (kvmclock), and the deadlines of timers.

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VcpuFd;
use mote_snapshot::{StateV1, VcpuV1};

use super::{Shared, msrs};
use crate::error::{Error, kvm};

/// How far apart two readings of a counter may be that something lies between,
/// in nanoseconds: a Linux guest that sees its clocks differ by more gives one up.
const CLOSE: u64 = 20_000;
/// After so many tries twice the shortest time seen is close enough for a slow
/// host, and after so many the host is too busy, and the last one counts.
const TRIES: (usize, usize) = (4, 32);

/// The guest has not run for a while: its watchdogs must not count that time. One
/// that does not use KVM's clock cannot be notified.
pub fn tell_stopped(shared: &Shared) {
    for vcpu in shared.vcpus() {
        let _ = vcpu.fd().kvmclock_ctrl();
    }
}

/// `ticks` of a counter of `khz` in nanoseconds: none where KVM does not tell
/// the frequency, or a snapshot says what no clock has counted.
fn nanoseconds(ticks: i64, khz: u32) -> i64 {
    let time = (i128::from(ticks) * 1_000_000).checked_div(i128::from(khz));
    time.and_then(|time| i64::try_from(time).ok()).unwrap_or(0)
}

/// The result of `work`, run between two readings of the counter that are as close as
/// possible. `work` gets the first reading; the midpoint is returned beside its
/// result.
fn beside<T>(
    fd: &VcpuFd,
    khz: u32,
    mut work: impl FnMut(u64) -> Result<T, Error>,
) -> Result<(T, u64), Error> {
    let read = || Ok::<_, Error>(msrs::get(fd, msrs::TSC)?.unwrap_or(0));
    let (mut tries, mut shortest) = (0, u64::MAX);
    loop {
        let before = read()?;
        let done = work(before)?;
        let passed = read()?.wrapping_sub(before);
        let time = nanoseconds(passed as i64, khz).unsigned_abs();
        (tries, shortest) = (tries + 1, shortest.min(time));
        let slow = tries >= TRIES.0 && time / 2 <= shortest;
        if time <= CLOSE || slow || tries == TRIES.1 {
            return Ok((done, before.wrapping_add(passed / 2)));
        }
    }
}

/// Reads KVM's clock, in nanoseconds, and puts each vCPU's counter as it was then
/// into its state.
///
/// # Errors
/// KVM refuses to tell.
pub fn save(shared: &Shared, saved: &mut [VcpuV1]) -> Result<u64, Error> {
    let clock = || {
        let clock = shared.fd.get_clock().map_err(kvm("read the clock"))?;
        Ok(clock.clock)
    };
    let mut first = None;
    for (vcpu, saved) in shared.vcpus().iter().zip(saved) {
        let (now, counter) = beside(&vcpu.fd(), saved.tsc_khz, |_| clock())?;
        // Back to the first one's moment.
        let then = *first.get_or_insert(now);
        let passed = i128::from(now) - i128::from(then);
        let ticks = passed * i128::from(saved.tsc_khz) / 1_000_000;
        let msrs = saved.msrs.iter_mut();
        for (_, value) in msrs.filter(|(index, _)| *index == msrs::TSC) {
            *value = counter.wrapping_sub(ticks as u64);
        }
    }
    first.map_or_else(clock, Ok)
}

/// Whether an MSR goes by the time: [`restore`] sets it, and nothing earlier.
pub fn is_time(index: u32) -> bool {
    matches!(index, msrs::TSC | msrs::TSC_DEADLINE)
}

fn saved(vcpu: &VcpuV1, msr: u32) -> impl Iterator<Item = (u32, u64)> + '_ {
    let msrs = vcpu.msrs.iter().copied();
    msrs.filter(move |(index, _)| *index == msr)
}

/// Lets counters and clock run on from where they were, the timers by them, and
/// tells the guest that it has not run, once its vCPUs are there.
///
/// # Errors
/// KVM refuses.
pub fn restore(shared: &Shared, state: &StateV1) -> Result<(), Error> {
    /// Far from any counter.
    const FAR: u64 = 1 << 62;
    const SECOND: u64 = 1_000_000_000;
    let pairs = || shared.vcpus().iter().zip(&state.vcpus);
    // KVM takes values that are a second apart for the same, and those of a VM
    // that was saved in its first second for those of one just made: the first
    // counter goes a long way round. The others are set right behind it, and so
    // are the same.
    let around = pairs().take(1).map(|pair| (pair, FAR));
    for ((vcpu, state), far) in around.chain(pairs().map(|pair| (pair, 0))) {
        let counter =
            saved(state, msrs::TSC).map(|(index, value)| (index, value.wrapping_add(far)));
        msrs::restore(&vcpu.fd(), &counter.collect::<Vec<_>>())?;
    }
    if let Some((vcpu, first)) = pairs().next() {
        let from = saved(first, msrs::TSC).next().map_or(0, |(_, value)| value);
        beside(&vcpu.fd(), first.tsc_khz, |now| {
            let passed = nanoseconds(now.wrapping_sub(from) as i64, first.tsc_khz);
            // A host that gives its guests its own counter (PVM) does not set it.
            let passed = u64::try_from(passed).ok().filter(|passed| *passed < SECOND);
            let clock = kvm_clock_data {
                clock: state.vm.clock.saturating_add(passed.unwrap_or(0)),
                ..Default::default()
            };
            shared.fd.set_clock(&clock).map_err(kvm("set the clock"))
        })?;
    }
    for (vcpu, state) in pairs() {
        let deadline: Vec<(u32, u64)> = saved(state, msrs::TSC_DEADLINE).collect();
        msrs::restore(&vcpu.fd(), &deadline)?;
    }
    tell_stopped(shared);
    Ok(())
}

#[cfg(test)]
#[path = "clock_test.rs"]
mod tests;
