//! The queues of a started device, each under a lock of its own.

use std::sync::Mutex;

use crate::{Activation, Dirty, Error, Memory, Queue, QueueState, Unpoisoned as _};

/// By queue number; `None` where the driver left one unused.
pub(crate) struct Queues<'m>(Vec<Option<Mutex<Queue<'m>>>>);

impl<'m> Queues<'m> {
    /// Starts queues of at most `max_size` entries, which note in `dirty` what
    /// they may write to.
    ///
    /// # Errors
    /// As [`Queue::new`], of the first that is bad.
    pub(crate) fn start(
        mem: &'m Memory,
        max_size: u16,
        dirty: Option<&'static Dirty>,
        from: &Activation,
    ) -> Result<Self, Error> {
        let start = |setup: &Option<crate::QueueSetup>| {
            let Some(setup) = setup else { return Ok(None) };
            let (config, state) = (&setup.config, &setup.state);
            let mut queue = Queue::new(mem, max_size, from.features, config, state)?;
            if let Some(dirty) = dirty {
                queue.track(dirty);
            }
            Ok(Some(Mutex::new(queue)))
        };
        let queues: Result<_, _> = from.queues.iter().map(start).collect();
        queues.map(Self)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Mutex<Queue<'m>>> {
        self.0.get(index)?.as_ref()
    }

    /// How many chains wait in a queue.
    pub(crate) fn pending(&self, index: usize) -> u16 {
        self.get(index).map_or(0, |queue| queue.lock().unpoisoned().pending())
    }

    /// Stops them.
    pub(crate) fn into_states(self) -> Vec<Option<QueueState>> {
        let state = |queue: Mutex<Queue<'_>>| {
            let queue = queue.into_inner().unpoisoned();
            queue.into_state()
        };
        self.0.into_iter().map(|queue| queue.map(state)).collect()
    }
}
