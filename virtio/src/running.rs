//! What every device that runs has: queues, each under a lock of its own, and the
//! agreement with its workers on when to leave them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};

use crate::{
    Activation, Counter, Dirty, Error, Memory, Outcome, Queue, QueueState, Step, Unpoisoned as _,
};

/// A started device.
pub(crate) struct Running<'m, T> {
    /// The negotiated features.
    pub(crate) features: u64,
    /// By queue number; `None` where the driver left one unused.
    queues: Vec<Option<Mutex<Queue<'m>>>>,
    broken: AtomicBool,
    /// What the device keeps from its start to its stop.
    pub(crate) own: T,
}

/// A device's queues, while it runs and while it does not.
pub(crate) struct Runner<'m, T> {
    mem: &'m Memory,
    dirty: Option<&'static Dirty>,
    running: RwLock<Option<Running<'m, T>>>,
    stopping: AtomicBool,
}

impl<'m, T> Runner<'m, T> {
    /// A stopped device, whose queues note in `dirty` what they may write to.
    pub(crate) fn new(mem: &'m Memory, dirty: Option<&'static Dirty>) -> Self {
        Self { mem, dirty, running: RwLock::new(None), stopping: AtomicBool::new(false) }
    }

    /// Starts queues of at most `max_size` entries.
    ///
    /// # Errors
    /// As [`Queue::new`], of the first that is bad; [`Error::State`] if it runs already.
    pub(crate) fn start(&self, max_size: u16, from: &Activation, own: T) -> Result<(), Error> {
        let mut running = self.running.write().unpoisoned();
        if running.is_some() {
            return Err(Error::State("a running device"));
        }
        let start = |setup: &Option<crate::QueueSetup>| {
            let Some(setup) = setup else { return Ok(None) };
            let (config, state) = (&setup.config, &setup.state);
            let mut queue = Queue::new(self.mem, max_size, from.features, config, state)?;
            if let Some(dirty) = self.dirty {
                queue.track(dirty);
            }
            Ok(Some(Mutex::new(queue)))
        };
        let queues = from.queues.iter().map(start).collect::<Result<_, _>>()?;
        let (features, broken) = (from.features, AtomicBool::new(false));
        *running = Some(Running { features, queues, broken, own });
        Ok(())
    }

    /// Waits until the workers have left, and hands back the queues' states; none if it
    /// does not run.
    pub(crate) fn stop(&self) -> Vec<Option<QueueState>> {
        self.stopping.store(true, Ordering::Relaxed);
        let mut running = self.running.write().unpoisoned();
        self.stopping.store(false, Ordering::Relaxed);
        let state = |queue: Mutex<Queue<'_>>| queue.into_inner().unpoisoned().into_state();
        let queues = running.take().map(|running| running.queues).unwrap_or_default();
        queues.into_iter().map(|queue| queue.map(state)).collect()
    }

    /// Whether [`stop`](Self::stop) waits for the workers.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Whether it runs and has met a chain that no driver may build.
    pub(crate) fn is_broken(&self) -> bool {
        let running = self.running.read().unpoisoned();
        running.as_ref().is_some_and(|running| running.broken.load(Ordering::Relaxed))
    }

    /// How many chains wait in a queue.
    pub(crate) fn pending(&self, index: usize) -> u16 {
        let running = self.running.read().unpoisoned();
        let queue = running.as_ref().and_then(|running| running.queues.get(index)?.as_ref());
        queue.map_or(0, |queue| queue.lock().unpoisoned().pending())
    }

    /// Runs `work` on a queue, and counts in `broken` if the driver broke it.
    pub(crate) fn with_queue(
        &self,
        index: usize,
        broken: &Counter,
        work: impl FnOnce(&Running<'m, T>, &Mutex<Queue<'m>>) -> Outcome,
    ) -> Outcome {
        let running = self.running.read().unpoisoned();
        let Some(running) = running.as_ref() else {
            return Outcome::quiet(Step::Stopped);
        };
        if running.broken.load(Ordering::Relaxed) {
            return Outcome::quiet(Step::Broken);
        }
        let Some(Some(queue)) = running.queues.get(index) else {
            return Outcome::quiet(Step::Stopped);
        };
        let mut outcome = work(running, queue);
        if outcome.step == Step::Broken {
            outcome.refresh = true;
            broken.add(u64::from(!running.broken.swap(true, Ordering::Relaxed)));
        }
        outcome
    }
}
