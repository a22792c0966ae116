//! From the guest to the tap.

use std::time::Duration;

use super::counters::Tally;
use super::{HEADER_LEN, Net, NetCounters, Running, header, is_down};
use crate::{Chain, Error, Outcome, Queue, Step, WhenEmpty};

/// Most bytes in a frame: 64 KiB of IP and the headers below it.
const MAX_FRAME: u32 = 65536 + 64;
/// Least bytes in a frame: an Ethernet header.
const MIN_FRAME: u32 = 14;
/// When to try again if the tap has no room.
const BUSY: Duration = Duration::from_millis(1);

/// Largest frame, without its header, that is copied and sent in one piece:
/// up to here that is faster than to send it from where it lies, as a piece
/// behind the header (2 KiB: 0.05 against 0.2 µs).
const SMALL: usize = 2048;

/// What the sending worker keeps between frames. Make it on the thread that
/// uses it; it knows nothing of any device.
#[derive(Debug)]
pub struct TxWorker<'m> {
    chain: Chain<'m>,
    /// A small frame with its header, or the header of a larger one.
    start: [u8; HEADER_LEN + SMALL],
}

impl Default for TxWorker<'_> {
    fn default() -> Self {
        Self { chain: Chain::new(), start: [0; HEADER_LEN + SMALL] }
    }
}

/// What became of a frame.
enum Sent {
    Yes(usize),
    Dropped,
    Busy,
}

/// When a worker runs, and what it does when the ring is empty.
#[derive(Clone, Copy)]
struct Turn {
    now: Duration,
    when_empty: WhenEmpty,
}

impl<'m> Net<'m> {
    /// Sends up to `budget` frames and says why it stopped.
    ///
    /// [`Step::WaitUntil`] is meant on the clock of `now`: a rate limit, or a
    /// tap that has no room. After an outcome with `refresh`, also call
    /// [`run_rx`](Self::run_rx): it says when to look for a lost tap again.
    pub fn run_tx(
        &self,
        worker: &mut TxWorker<'m>,
        now: Duration,
        budget: usize,
        when_empty: WhenEmpty,
    ) -> Outcome {
        let turn = Turn { now, when_empty };
        self.with_queue(super::TX_QUEUE, |running, ring| {
            let NetCounters { tx_frames, tx_bytes, tx_dropped, .. } = &self.counters;
            self.each_frame(budget, [tx_frames, tx_bytes, tx_dropped], |tally| {
                self.send_next(ring, worker, running, turn, tally)
            })
        })
    }

    /// Sends one frame; a step if there is none to send or it has to wait.
    fn send_next(
        &self,
        ring: &mut Queue<'m>,
        worker: &mut TxWorker<'m>,
        running: &Running<'m>,
        Turn { now, when_empty }: Turn,
        tally: &mut Tally,
    ) -> Result<Option<Step>, Error> {
        let chain = &mut worker.chain;
        while !ring.take(chain)? {
            if when_empty == WhenEmpty::Poll {
                return Ok(Some(Step::Empty));
            }
            if ring.arm()? {
                return Ok(Some(Step::Idle));
            }
        }
        let head = chain.head();
        let len = chain.readable_len().saturating_sub(HEADER_LEN as u32);
        if let Some(mut limit) = self.tx_limiter.get()
            && let Err(at) = limit.ready(now, u64::from(len))
        {
            ring.park(head);
            self.counters.tx_throttled.add(1);
            return Ok(Some(Step::WaitUntil(at)));
        }
        match self.send(worker, running.features) {
            Sent::Yes(n) => {
                tally.frames += 1;
                tally.bytes += n as u64;
            }
            Sent::Dropped => tally.dropped += 1,
            Sent::Busy => {
                ring.park(head);
                self.counters.tx_throttled.add(1);
                return Ok(Some(Step::WaitUntil(now.saturating_add(BUSY))));
            }
        }
        // Not before: a frame that the tap has no room for is tried again.
        if let Some(mut limit) = self.tx_limiter.get() {
            limit.charge(u64::from(len));
        }
        ring.stage(head, 0)?;
        ring.publish_some();
        Ok(None)
    }

    /// Takes the header off the chain, once, and sends what is left.
    fn send(&self, worker: &mut TxWorker<'m>, features: u64) -> Sent {
        let chain = &mut worker.chain;
        let Some((head, frame)) = worker.start.split_first_chunk_mut::<HEADER_LEN>() else {
            return Sent::Dropped;
        };
        if !chain.read(head) {
            return Sent::Dropped;
        }
        let len = chain.readable_len();
        let sized = (MIN_FRAME..=MAX_FRAME).contains(&len);
        if !sized || !header::is_acceptable(head, features, len as usize) {
            return Sent::Dropped;
        }
        let mut copied = HEADER_LEN;
        if let Some(small) = frame.get_mut(..len as usize)
            && chain.read(small)
        {
            copied += small.len();
        }
        let start = worker.start.get(..copied).unwrap_or_default();
        match self.tap.write_frame(start, chain.readable()) {
            Ok(Some(_)) => Sent::Yes(len as usize),
            Ok(None) => Sent::Busy,
            Err(error) => {
                self.counters.tap_errors.add(1);
                if is_down(&error) {
                    self.set_link(false);
                }
                Sent::Dropped
            }
        }
    }
}
