//! Network interfaces: a network device, its tap, and the worker between.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use mote_virtio::net::{Net, Options, RxWorker, TxWorker};
use mote_virtio::{Device, Step, WhenEmpty};

use super::{BUDGET, Slot, sleep};
use crate::backend::TapDevice;
use crate::config::{Nic, TapSource};
use crate::error::Error;
use crate::memory::GuestRam;

/// What an interface's worker serves.
pub(super) struct Work {
    net: Arc<Net<'static>>,
    /// The tap, to wait for frames on.
    watch: OwnedFd,
}

/// Attaches to an interface's tap and makes its device.
pub(super) fn open(nic: &Nic, ram: &'static GuestRam) -> Result<(Arc<dyn Device>, Work), Error> {
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
        ..Options::default()
    };
    let watch = tap.watch()?;
    let net = Net::new(ram, Box::new(tap), options)
        .map_err(|e| Error::Usage(format!("--net: {}: {e}", nic.id)))?;
    let net = Arc::new(net);
    let work = Work {
        net: Arc::clone(&net),
        watch,
    };
    Ok((net, work))
}

impl Work {
    /// What the worker thread does: receive and send by turns, sleep on the
    /// doorbell and, while there is room for a frame, on the tap.
    pub(super) fn serve(&self, slot: &Slot) {
        let clock = Instant::now();
        let (mut rx, mut tx) = (RxWorker::default(), TxWorker::default());
        loop {
            let sent = self
                .net
                .run_tx(&mut tx, clock.elapsed(), BUDGET, WhenEmpty::Arm);
            slot.answer(&sent);
            // After it, because only this says when to look for a lost tap.
            let received = self.net.run_rx(&mut rx, clock.elapsed(), BUDGET);
            slot.answer(&received);
            let steps = [sent.step, received.step];
            if steps.contains(&Step::More) {
                continue;
            }
            let until = steps.into_iter().filter_map(|step| match step {
                Step::WaitUntil(at) => Some(at),
                _ => None,
            });
            let limit = until.min().map(|at| at.saturating_sub(clock.elapsed()));
            let tap = (received.step == Step::Idle).then(|| self.watch.as_fd());
            sleep(slot, tap, limit);
        }
    }
}
