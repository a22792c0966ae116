//! A queue between threads, of a lock and a condition variable: whoever waits
//! calls futex and nothing else. The standard library's yields the processor,
//! too, when a thread was interrupted in the middle of sending: rarely, and no
//! filter of the sandbox lets it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use mote_virtio::Unpoisoned as _;

/// One of the ends that put something in.
#[derive(Debug)]
pub struct Sender<T>(Arc<Queue<T>>);

/// The end that takes it out.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Queue<T>>);

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvError {
    /// Nothing is there yet.
    Empty,
    /// Nothing is there, and all senders are gone.
    Disconnected,
}

#[derive(Debug)]
struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    senders: usize,
    receiver: bool,
}

/// An empty queue.
#[must_use]
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { items: VecDeque::new(), senders: 1, receiver: true };
    let queue = Arc::new(Queue { state: Mutex::new(state), changed: Condvar::new() });
    (Sender(Arc::clone(&queue)), Receiver(queue))
}

impl<T> Queue<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unpoisoned()
    }
}

impl<T> State<T> {
    fn take(&mut self) -> Result<T, RecvError> {
        self.items.pop_front().ok_or(match self.senders {
            0 => RecvError::Disconnected,
            _ => RecvError::Empty,
        })
    }

    fn waits(&mut self) -> bool {
        self.items.is_empty() && self.senders > 0
    }
}

impl<T> Sender<T> {
    /// Sends `item`; returns it if the receiver is gone.
    ///
    /// # Errors
    /// The receiver is gone.
    pub fn send(&self, item: T) -> Result<(), T> {
        let mut state = self.0.state();
        if !state.receiver {
            return Err(item);
        }
        state.items.push_back(item);
        self.0.changed.notify_one();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.state().senders -= 1;
        self.0.changed.notify_one();
    }
}

impl<T> Receiver<T> {
    /// Queued items.
    ///
    /// # Errors
    /// Nothing is.
    pub fn try_recv(&self) -> Result<T, RecvError> {
        self.0.state().take()
    }

    /// Waits for something; `None` when all senders have gone.
    pub fn recv(&self) -> Option<T> {
        let state = self.0.changed.wait_while(self.0.state(), State::waits);
        state.unpoisoned().take().ok()
    }

    /// Waits up to this time.
    ///
    /// # Errors
    /// Nothing came.
    pub fn recv_timeout(&self, limit: Duration) -> Result<T, RecvError> {
        let state = self.0.state();
        let waited = self.0.changed.wait_timeout_while(state, limit, State::waits);
        waited.unpoisoned().0.take()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.state().receiver = false;
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn all_arrive_in_the_order_of_each_sender() {
        let (sender, receiver) = channel();
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for count in 0..1000 {
                        sender.send((number, count)).unwrap();
                    }
                })
            })
            .collect();
        drop(sender);
        let mut next = [0; 4];
        while let Some((number, count)) = receiver.recv() {
            assert_eq!(count, std::mem::replace(&mut next[number], count + 1));
        }
        assert_eq!(next, [1000; 4]);
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_receiver_learns_that_the_senders_are_gone() {
        let (sender, receiver) = channel();
        assert_eq!(receiver.try_recv(), Err(RecvError::Empty));
        let soon = Duration::from_millis(1);
        assert_eq!(receiver.recv_timeout(soon), Err(RecvError::Empty));
        let last = thread::spawn(move || {
            let other = sender.clone();
            sender.send(1).unwrap();
            drop(sender);
            drop(other);
        });
        assert_eq!(receiver.recv(), Some(1));
        assert_eq!(receiver.recv(), None);
        assert_eq!(receiver.try_recv(), Err(RecvError::Disconnected));
        assert_eq!(receiver.recv_timeout(soon), Err(RecvError::Disconnected));
        last.join().unwrap();
        let (sender, receiver) = channel();
        drop(receiver);
        assert_eq!(sender.send(1), Err(1));
    }
}
