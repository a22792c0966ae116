//! From the tap to the guest.
//!
//! The worker holds receive buffers taken from the ring, enough for the
//! largest frame, and reads each frame straight into them. A frame that does
//! not fit runs over into memory of its own and is thrown away: the guest
//! gave too little. What a frame leaves unused is held for the next one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::counters::Tally;
use super::{FRAME_OVERHEAD, HEADER_LEN, Net, NetCounters, Running, header, is_down};
use crate::{Chain, Error, GuestSlice, Outcome, Queue, Step};

/// Bytes of the largest frame, header included: what a driver has to have room
/// for (5.1.6.3.1) and VLAN tags.
pub(super) const MAX_FRAME: usize = u16::MAX as usize + FRAME_OVERHEAD;
/// Most slices handed to the tap at once. A chain has at most as many as a
/// queue has entries, half of this, so that one always fits beside another.
const MAX_SLICES: usize = 1000;
/// Least bytes in a buffer of a driver that does not merge.
const LEAST_BUFFER: usize = HEADER_LEN + 1514;
/// Bytes that a frame is always expected to have.
const LEAST_EXPECTED: usize = 2048;
/// How long a frame waits for buffers that should be on their way. A driver
/// that only gives more when it has received something gives none.
const BUFFER_TIMEOUT: Duration = Duration::from_millis(20);
/// How often a tap that is down is tried.
const PROBE: Duration = Duration::from_secs(1);

/// A buffer taken from the ring and not filled yet.
#[derive(Debug, Clone, Copy)]
struct Held {
    head: u16,
    slices: usize,
    len: usize,
}

/// What the receiving worker keeps between frames. Make it on the thread that
/// uses it; it knows nothing of any device.
#[derive(Debug)]
pub struct RxWorker<'m> {
    chain: Chain<'m>,
    /// Which start of the device the buffers are from.
    started: u64,
    held: Vec<Held>,
    slices: Vec<GuestSlice<'m>>,
    /// Bytes in `slices`.
    room: usize,
    overflow: Vec<u8>,
    /// Bytes that the next frame is expected to have at most.
    expected: usize,
    /// A frame that has been read and waits for more buffers.
    tail: Option<Tail>,
}

/// A frame of which the front lies in buffers that were held, and the rest in
/// the overflow.
#[derive(Debug, Clone, Copy)]
struct Tail {
    /// Bytes of the frame, header included.
    len: usize,
    /// Bytes of it that lie in buffers.
    placed: usize,
    /// When it is dropped.
    until: Duration,
}

impl Default for RxWorker<'_> {
    fn default() -> Self {
        Self {
            chain: Chain::new(),
            started: 0,
            held: Vec::with_capacity(64),
            slices: Vec::with_capacity(64),
            room: 0,
            // Zeroed lazily by the kernel: costs memory only if used. One byte
            // more, so that a frame of which the tap cut off the end (a host
            // may be set to larger ones) is known by its length.
            overflow: vec![0; MAX_FRAME + 1],
            expected: LEAST_EXPECTED,
            tail: None,
        }
    }
}

impl<'m> RxWorker<'m> {
    /// Forgets buffers of an earlier start: they went back with its stop.
    fn renew(&mut self, started: u64) {
        if self.started != started {
            self.started = started;
            self.held.clear();
            self.slices.clear();
            self.room = 0;
            self.tail = None;
        }
    }

    fn hold(&mut self) {
        let slices = self.chain.writable();
        let len = self.chain.writable_len() as usize;
        self.held.push(Held { head: self.chain.head(), slices: slices.len(), len });
        self.slices.extend_from_slice(slices);
        self.room += len;
    }

    /// How many slices are enough for the frame that is expected, and how many
    /// bytes they have. Each costs the kernel time for every frame; of one
    /// that is larger, the rest is copied.
    fn offer(&self) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for slice in &self.slices {
            if bytes >= self.expected {
                break;
            }
            count += 1;
            bytes += slice.len();
        }
        (count, bytes)
    }

    /// Learns from a frame: large ones seldom come alone.
    fn expect(&mut self, len: usize) {
        self.expected = len.max(self.expected / 2).max(LEAST_EXPECTED);
    }

    /// How many of the held buffers a frame of `len` bytes fills.
    fn count(&self, len: usize) -> usize {
        let mut left = len;
        let filled = self.held.iter().take_while(|held| {
            let more = left != 0;
            left = left.saturating_sub(held.len);
            more
        });
        filled.count()
    }

    /// Lets go of the first `count` buffers.
    fn release(&mut self, count: usize) {
        let gone = self.held.drain(..count.min(self.held.len()));
        let (slices, len) =
            gone.fold((0, 0), |(slices, len), held| (slices + held.slices, len + held.len));
        self.slices.drain(..slices.min(self.slices.len()));
        self.room = self.room.saturating_sub(len);
    }
}

impl<'m> Net<'m> {
    /// Receives up to `budget` frames and says why it stopped.
    ///
    /// [`Step::Idle`]: wait until the tap can be read; more buffers need not
    /// wake the worker. [`Step::NoBuffers`]: wait for the receive doorbell and
    /// leave the tap alone; the host keeps or drops what comes meanwhile.
    /// [`Step::NoBuffersUntil`]: the same, but not for longer than that.
    /// [`Step::WaitUntil`]: leave both alone until then.
    pub fn run_rx(&self, worker: &mut RxWorker<'m>, now: Duration, budget: usize) -> Outcome {
        self.with_queue(super::RX_QUEUE, |running, ring| {
            let own = &running.own;
            worker.renew(own.number);
            if !own.offload_set.swap(true, Ordering::Relaxed)
                && self.tap.set_offload(own.offload).is_err()
            {
                self.counters.tap_errors.add(1);
            }
            let NetCounters { rx_frames, rx_bytes, rx_dropped, .. } = &self.counters;
            self.each_frame(budget, [rx_frames, rx_bytes, rx_dropped], |tally| {
                self.receive_next(ring, worker, running, now, tally)
            })
        })
    }

    /// Receives one frame; a step if there is none or it has to wait.
    fn receive_next(
        &self,
        ring: &mut Queue<'m>,
        worker: &mut RxWorker<'m>,
        running: &Running<'m>,
        now: Duration,
        tally: &mut Tally,
    ) -> Result<Option<Step>, Error> {
        let dry = self.gather(ring, worker, running, tally)?;
        if let Some(tail) = worker.tail {
            let patient = dry && now < tail.until;
            return self.finish(ring, worker, running, patient, tally);
        }
        if worker.held.is_empty() {
            return Ok(ring.arm()?.then(|| self.no_buffers(now)));
        }
        if let Some(mut limit) = self.rx_limiter.get()
            && let Err(at) = limit.ready(now, 1)
        {
            self.counters.rx_throttled.add(1);
            return Ok(Some(Step::WaitUntil(at)));
        }
        let (count, offered) = worker.offer();
        let to = worker.slices.get(..count).unwrap_or_default();
        let read = self.tap.read_frame(to, &mut worker.overflow);
        let len = match read {
            Ok(Some(len)) => len,
            Ok(None) => return Ok(Some(self.dry(now))),
            Err(error) => return Ok(self.read_failed(&error, now, tally)),
        };
        self.set_link(true);
        worker.expect(len.min(MAX_FRAME));
        // A driver that takes segments gives small buffers, and the next ones
        // are on their way: the frame is kept until they come.
        let segments = running.own.merges && running.own.offload.has_segments();
        if len > worker.room && len <= running.own.largest_frame && segments && dry {
            let placed = offered;
            let until = now.saturating_add(BUFFER_TIMEOUT);
            worker.tail = Some(Tail { len, placed, until });
            return Ok(None);
        }
        if len < HEADER_LEN || len > worker.room.min(MAX_FRAME) {
            tally.dropped += 1;
            return self.drop_useless(ring, worker, running).map(|()| None);
        }
        if len > offered {
            let rest = worker.overflow.get(..len - offered).unwrap_or_default();
            place(&worker.slices, offered, rest);
        }
        self.deliver(ring, worker, running, len, tally)?;
        Ok(None)
    }

    /// Goes on with a frame that lacked room: delivers it once there is room
    /// for all of it, or drops it if the driver has no more buffers to give or
    /// took too long.
    fn finish(
        &self,
        ring: &mut Queue<'m>,
        worker: &mut RxWorker<'m>,
        running: &Running<'m>,
        patient: bool,
        tally: &mut Tally,
    ) -> Result<Option<Step>, Error> {
        let Some(tail) = worker.tail else { return Ok(None) };
        if worker.room < tail.len {
            let all_held = worker.held.len() >= usize::from(ring.size());
            if patient && !all_held {
                return Ok(ring.arm()?.then_some(Step::NoBuffersUntil(tail.until)));
            }
            worker.tail = None;
            tally.dropped += 1;
            return Ok(None);
        }
        worker.tail = None;
        let rest = tail.len.saturating_sub(tail.placed);
        let rest = worker.overflow.get(..rest).unwrap_or_default();
        place(&worker.slices, tail.placed, rest);
        self.deliver(ring, worker, running, tail.len, tally)?;
        Ok(None)
    }

    /// Gives the guest the frame that lies in the first held buffers: completes the
    /// header, gives back each buffer, and counts the frame.
    fn deliver(
        &self,
        ring: &mut Queue<'m>,
        worker: &mut RxWorker<'m>,
        running: &Running<'m>,
        len: usize,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        if let Some(mut limit) = self.rx_limiter.get() {
            limit.charge((len - HEADER_LEN) as u64);
        }
        let count = worker.count(len);
        let buffers = u16::try_from(count).map_err(|_| Error::ChainTooLong)?;
        if !header::complete(&worker.slices, running.features, buffers) {
            return Err(Error::MissingHeader);
        }
        let mut left = len;
        for held in worker.held.iter().take(count) {
            let written = left.min(held.len);
            left -= written;
            ring.stage(held.head, u32::try_from(written).unwrap_or(u32::MAX))?;
        }
        worker.release(count);
        // Between frames: a driver sees all buffers of a frame or none (5.1.6.4).
        ring.publish_some();
        tally.frames += 1;
        tally.bytes += len as u64;
        Ok(())
    }

    /// Takes buffers from the ring until the largest frame fits, or one
    /// buffer where a frame may only fill one. True if the ring is empty.
    fn gather(
        &self,
        ring: &mut Queue<'m>,
        worker: &mut RxWorker<'m>,
        running: &Running<'m>,
        tally: &mut Tally,
    ) -> Result<bool, Error> {
        let most = if running.own.merges { usize::MAX } else { 1 };
        let spare = MAX_SLICES - usize::from(ring.size());
        while worker.room < running.own.largest_frame
            && worker.held.len() < most
            && worker.slices.len() <= spare
        {
            if !ring.take(&mut worker.chain)? {
                return Ok(true);
            }
            if (worker.chain.writable_len() as usize) >= HEADER_LEN {
                worker.hold();
                continue;
            }
            // Nothing can ever be put in it: it would block the others.
            self.counters.rx_useless.add(1);
            ring.complete(worker.chain.head(), 0)?;
            tally.steps += 1;
            if tally.steps.is_multiple_of(usize::from(ring.size())) {
                // The driver may put them back as fast as they come.
                break;
            }
        }
        Ok(false)
    }

    /// After a frame that did not fit: where a frame fills one buffer and
    /// that one is smaller than any driver may give (5.1.6.3.1), it goes
    /// back, so that a good one behind it gets its turn.
    fn drop_useless(
        &self,
        ring: &mut Queue<'m>,
        worker: &mut RxWorker<'m>,
        running: &Running<'m>,
    ) -> Result<(), Error> {
        let useless = !running.own.merges && worker.room < LEAST_BUFFER;
        let held = worker.held.first().filter(|_| useless);
        if let Some(held) = held {
            self.counters.rx_useless.add(1);
            ring.complete(held.head, 0)?;
            worker.release(1);
        }
        Ok(())
    }

    /// No frame waits. A tap whose interface is down says the same, so while
    /// the link is down it is asked, now and then.
    fn dry(&self, now: Duration) -> Step {
        if !self.link_is_up() {
            if !self.tap.is_up() {
                return Step::WaitUntil(now.saturating_add(PROBE));
            }
            self.set_link(true);
        }
        Step::Idle
    }

    /// The driver gave nothing to read into. While the link is down, the tap
    /// is asked all the same.
    fn no_buffers(&self, now: Duration) -> Step {
        if self.link_is_up() {
            return Step::NoBuffers;
        }
        self.set_link(self.tap.is_up());
        Step::WaitUntil(now.saturating_add(PROBE))
    }

    fn read_failed(
        &self,
        error: &std::io::Error,
        now: Duration,
        tally: &mut Tally,
    ) -> Option<Step> {
        self.counters.tap_errors.add(1);
        if is_down(error) {
            self.set_link(false);
            return Some(Step::WaitUntil(now.saturating_add(PROBE)));
        }
        // One bad frame; the next read gets the next one.
        tally.dropped += 1;
        None
    }
}

/// Copies `bytes` into the slices from byte `skip` of them on.
fn place(slices: &[GuestSlice<'_>], skip: usize, bytes: &[u8]) {
    let (mut skip, mut rest) = (skip, bytes);
    for slice in slices {
        let Ok(tail) = slice.offset(skip.min(slice.len())) else {
            return;
        };
        skip = skip.saturating_sub(slice.len());
        let (now, later) = rest.split_at(rest.len().min(tail.len()));
        tail.copy_from(now);
        rest = later;
    }
}
