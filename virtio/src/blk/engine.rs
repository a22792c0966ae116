//! Running a block queue: take, do, give back.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::counters::Tally;
use super::execute::{Executor, NoSpace};
use super::request::{self, Limits, Operation, Range};
use super::{Block, Inserted, SECTOR};
use crate::{Chain, Error, Outcome, Queue, Step, Unpoisoned as _, WhenEmpty, features};

/// Most data moved in one `run`, whatever its budget of requests: 16 MiB
/// after which the worker looks at its other duties.
const BYTES_PER_RUN: u64 = 16 << 20;
/// How long a `run` goes on taking requests. What is done is not told before
/// its end, so on a slow disk the first of many would be told after the last.
const TIME_PER_RUN: Duration = Duration::from_millis(1);
/// What a hole costs its limit: the block that the host may have to rewrite at
/// an edge of it. What lies between the edges is given back, not written.
const HOLE: u64 = 4096;

/// What a worker thread keeps between requests, to allocate none for them.
/// Make it on the thread that uses it; it knows nothing of any device.
#[derive(Default)]
pub struct Worker<'m> {
    chain: Chain<'m>,
    ranges: Vec<Range>,
    wake: Option<Box<dyn Fn() + 'm>>,
}

impl<'m> Worker<'m> {
    /// One of several that serve the same queues. The doorbell stays armed
    /// while it is at work, so that new requests find the others, and `wake`
    /// is called, under the queue's lock, when it has taken a request and left
    /// some that rang before: have one of the others look.
    #[must_use]
    pub fn of_pool(wake: impl Fn() + 'm) -> Self {
        Self { wake: Some(Box::new(wake)), ..Self::default() }
    }
}

/// How a `run` goes on after a request was taken or could not be.
enum Taken {
    Chain,
    Leave(Step),
}

impl<'m> Block<'m> {
    /// How many requests wait in `queue`, so that an owner of a pool knows
    /// how many workers to wake. Does not arm the doorbell.
    #[must_use]
    pub fn pending(&self, queue: usize) -> u16 {
        self.runner.pending(queue)
    }

    /// Serves up to `budget` requests of `queue` and says why it stopped.
    ///
    /// Any number of workers may run the same queue: requests are taken and
    /// given back under the queue's lock and done outside it. Each request is
    /// shown to the driver as soon as it is done; the interrupt for all of
    /// them is asked for once, at the end, which comes a millisecond after the
    /// start or with the request that took longer. `clock` is the owner's, any
    /// monotonic one, on which [`Step::WaitUntil`] is meant.
    pub fn run(
        &self,
        worker: &mut Worker<'m>,
        queue: usize,
        clock: &dyn Fn() -> Duration,
        budget: usize,
        when_empty: WhenEmpty,
    ) -> Outcome {
        self.runner.with_queue(queue, &self.counters.broken, |running, queue| {
            let inserted = self.inserted.read().unpoisoned();
            let (now, features) = (clock(), running.features);
            let sectors = inserted.size / SECTOR;
            let mut session = Session {
                block: self,
                limits: Limits { sectors, writable: self.writable, features },
                executor: self.executor(features, &inserted),
                clock,
                now,
                end: now.saturating_add(TIME_PER_RUN),
                budget,
                when_empty,
            };
            let outcome = session.work(queue, worker);
            self.counters.add(&session.executor.tally);
            outcome
        })
    }

    fn executor<'a>(&'a self, features: u64, inserted: &'a Inserted) -> Executor<'a> {
        // 5.2.6.2: neither flush nor a write-back switch means write-through.
        let negotiated = features & (features::BLK_FLUSH | features::BLK_CONFIG_WCE);
        let write_back = negotiated != 0 && self.writeback.load(Ordering::Relaxed);
        Executor {
            medium: &inserted.medium,
            health: &self.health,
            id: &self.id,
            size: inserted.size,
            write_through: !write_back,
            on_no_space: self.options.on_no_space,
            size_checked: false,
            tally: Tally::default(),
        }
    }
}

/// One `run`.
struct Session<'a, 'm> {
    block: &'a Block<'m>,
    limits: Limits,
    executor: Executor<'a>,
    clock: &'a dyn Fn() -> Duration,
    now: Duration,
    end: Duration,
    budget: usize,
    when_empty: WhenEmpty,
}

impl<'m> Session<'_, 'm> {
    fn work(&mut self, queue: &Mutex<Queue<'m>>, worker: &mut Worker<'m>) -> Outcome {
        let mut ring = queue.lock().unpoisoned();
        let step = loop {
            match self.take(&mut ring, worker) {
                Ok(Taken::Chain) => {}
                Ok(Taken::Leave(step)) => break step,
                Err(_) => break Step::Broken,
            }
            drop(ring);
            let done = self.serve(worker);
            ring = queue.lock().unpoisoned();
            match self.give_back(&mut ring, worker.chain.head(), done) {
                Ok(None) => {}
                Ok(Some(step)) => break step,
                Err(_) => break Step::Broken,
            }
        };
        let signal = ring.needs_signal().unwrap_or(false);
        Outcome { step, signal, refresh: false }
    }

    fn take(&mut self, ring: &mut Queue<'m>, worker: &mut Worker<'m>) -> Result<Taken, Error> {
        let tally = &self.executor.tally;
        if tally.requests > 0 {
            self.now = (self.clock)();
        }
        let spent = tally.requests >= self.budget as u64
            || tally.read_bytes + tally.written_bytes >= BYTES_PER_RUN
            || self.now >= self.end
            || self.block.runner.is_stopping();
        if spent {
            return Ok(Taken::Leave(Step::More));
        }
        while !ring.take(&mut worker.chain)? {
            if self.when_empty == WhenEmpty::Poll {
                return Ok(Taken::Leave(Step::Empty));
            }
            if ring.arm()? {
                return Ok(Taken::Leave(Step::Idle));
            }
        }
        if let Err(at) = self.throttle(&worker.chain) {
            ring.park(worker.chain.head());
            self.block.counters.throttled.add(1);
            return Ok(Taken::Leave(Step::WaitUntil(at)));
        }
        if let Some(wake) = &worker.wake
            && !ring.arm()?
        {
            wake();
        }
        Ok(Taken::Chain)
    }

    /// Spends the request's tokens: its data, whichever way it goes. What it
    /// does besides is only known later, and owed then.
    fn throttle(&self, chain: &Chain<'_>) -> Result<(), Duration> {
        let Some(mut limiter) = self.block.limiter.get() else { return Ok(()) };
        let bytes = chain.readable_len().saturating_sub(16);
        let bytes = bytes.max(chain.writable_len().saturating_sub(1));
        limiter.take(self.now, u64::from(bytes))
    }

    fn serve(&mut self, worker: &mut Worker<'m>) -> Result<Result<u32, NoSpace>, Error> {
        let request = request::parse(&mut worker.chain, &self.limits, &mut worker.ranges)?;
        let Worker { chain, ranges, .. } = worker;
        let done = self.executor.execute(&request, chain, ranges);
        if done.is_ok()
            && let Some(mut limiter) = self.block.limiter.get()
        {
            let bytes = match request.operation {
                Operation::WriteZeroes => ranges.iter().map(|range| range.len).sum(),
                Operation::Discard => ranges.len() as u64 * HOLE,
                _ => 0,
            };
            limiter.owe(bytes);
        }
        Ok(done)
    }

    fn give_back(
        &self,
        ring: &mut Queue<'m>,
        head: u16,
        done: Result<Result<u32, NoSpace>, Error>,
    ) -> Result<Option<Step>, Error> {
        match done? {
            Ok(written) => {
                ring.complete(head, written)?;
                Ok(None)
            }
            Err(NoSpace) => {
                ring.park(head);
                self.block.counters.no_space.add(1);
                Ok(Some(Step::Paused))
            }
        }
    }
}
