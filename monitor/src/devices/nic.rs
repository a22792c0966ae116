//! Network interfaces: a network device, its tap, and the worker between.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use mote_virtio::net::{Net, Options, RX_QUEUE, RxWorker, TX_QUEUE, TxWorker};
use mote_virtio::rate::RateLimiter;
use mote_virtio::{Device, Dirty, Step, WhenEmpty};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::{BUDGET, Connection};
use super::poll::Poll;
use crate::config::{Nic, TapSource};
use crate::error::Error;
use crate::host::memory::GuestRam;
use crate::host::tap::TapDevice;

/// What an interface's worker serves.
pub(super) struct Work {
    pub(super) net: Arc<Net<'static>>,
    /// The tap, to wait for frames on.
    watch: OwnedFd,
    /// Number of the descriptor that frames pass.
    pub(super) tap: RawFd,
    poll_us: u16,
}

/// Attaches to an interface's tap and makes its device.
pub(super) fn open(
    nic: &Nic,
    ram: &'static GuestRam,
    dirty: Option<&'static Dirty>,
) -> Result<(Arc<dyn Device>, Work), Error> {
    let tap = match &nic.tap {
        TapSource::Name(name) => TapDevice::open(name)?,
        TapSource::Fd(number) => TapDevice::inherit(*number)?,
    };
    let options = Options {
        mac: nic.mac.unwrap_or_else(|| nic.own_mac()),
        mtu: nic.mtu,
        udp_offload: tap.has_udp_offload(),
        rx_limiter: nic.rx_limiter,
        tx_limiter: nic.tx_limiter,
        dirty,
        ..Options::default()
    };
    let (watch, number) = (tap.watch()?, tap.as_raw_fd());
    let net = Net::new(ram, Box::new(tap), options)
        .map_err(|e| Error::Usage(format!("--net: {}: {e}", nic.id)))?;
    let net = Arc::new(net);
    let work = Work { net: Arc::clone(&net), watch, tap: number, poll_us: nic.poll_us };
    Ok((net, work))
}

/// Why a worker has nothing to do.
struct Pause {
    /// There is more to do after all.
    more: bool,
    /// Nothing is sent, and no doorbell would ring for it.
    unarmed: bool,
    /// What became of receiving.
    received: Step,
    /// When to continue at the latest.
    until: Option<Duration>,
}

impl Work {
    /// What the worker thread does: receive and send by turns, look on for a
    /// moment where that pays, sleep on the doorbell and, while there is room
    /// for a frame, on the tap.
    pub(super) fn serve(&self, link: &Connection) {
        let clock = link.clock;
        let (mut rx, mut tx) = (RxWorker::default(), TxWorker::default());
        let mut poll = Poll::new(self.poll_us);
        let mut round = |when_empty| {
            let sent = self.net.run_tx(&mut tx, clock.elapsed(), BUDGET, when_empty);
            link.answer(&sent);
            // After it, because only this says when to look for a lost tap.
            let received = self.net.run_rx(&mut rx, clock.elapsed(), BUDGET);
            link.answer(&received);
            let steps = [sent.step, received.step];
            let until = steps.into_iter().filter_map(|step| match step {
                Step::WaitUntil(at) | Step::NoBuffersUntil(at) => Some(at),
                _ => None,
            });
            Pause {
                more: steps.contains(&Step::More),
                unarmed: sent.step == Step::Empty,
                received: received.step,
                until: until.min(),
            }
        };
        loop {
            if poll.pays() {
                let pause = round(WhenEmpty::Poll);
                if pause.more || poll.watch(|| self.has_work(&pause)) {
                    continue;
                }
            }
            let pause = round(WhenEmpty::Arm);
            if pause.more {
                continue;
            }
            let begin = clock.elapsed();
            let limit = pause.until.map(|at| at.saturating_sub(begin));
            let tap = (pause.received == Step::Idle).then(|| self.watch.as_fd());
            link.sleep(tap, limit);
            if limit.is_none() {
                poll.slept(clock.elapsed().saturating_sub(begin));
            }
        }
    }

    /// Sets limits of receiving and of sending.
    pub(super) fn limit(&self, limits: [Option<RateLimiter>; 2]) {
        self.net.set_limiters(limits);
    }

    /// What it has counted, in Firecracker's names where it has them.
    pub(super) fn counts(&self) -> [(&'static str, u64); 11] {
        let counters = self.net.counters();
        [
            ("rx_packets_count", counters.rx_frames.get()),
            ("rx_bytes_count", counters.rx_bytes.get()),
            ("rx_fails", counters.rx_dropped.get()),
            ("rx_useless_buffers", counters.rx_useless.get()),
            ("rx_rate_limiter_throttled", counters.rx_throttled.get()),
            ("tx_packets_count", counters.tx_frames.get()),
            ("tx_bytes_count", counters.tx_bytes.get()),
            ("tx_fails", counters.tx_dropped.get()),
            ("tx_rate_limiter_throttled", counters.tx_throttled.get()),
            ("tap_errors", counters.tap_errors.get()),
            ("broken", counters.broken.get()),
        ]
    }

    /// Whether a worker that paused like this could do something now.
    fn has_work(&self, pause: &Pause) -> bool {
        if pause.unarmed && self.net.pending(TX_QUEUE) > 0 {
            return true;
        }
        match pause.received {
            Step::Idle => is_readable(&self.watch),
            Step::NoBuffers | Step::NoBuffersUntil(_) => self.net.pending(RX_QUEUE) > 0,
            _ => false,
        }
    }
}

fn is_readable(tap: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(tap, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}
