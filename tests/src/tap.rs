//! What comes out of a pipe or a terminal, collected while a test goes on.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

/// Collects everything that can be read from somewhere.
#[derive(Clone, Default)]
pub struct Tap(Arc<(Mutex<State>, Condvar)>);

impl Tap {
    /// Starts to collect, on a thread of its own.
    pub fn new(mut from: impl Read + Send + 'static) -> Self {
        let tap = Self::default();
        let own = tap.clone();
        thread::spawn(move || {
            let mut some = vec![0; 64 << 10];
            loop {
                let count = from.read(&mut some).unwrap_or(0);
                let mut state = own.0.0.lock().unwrap();
                state.bytes.extend_from_slice(&some[..count]);
                state.ended = count == 0;
                own.0.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        tap
    }

    /// A tap on nothing.
    #[must_use]
    pub fn closed() -> Self {
        let tap = Self::default();
        tap.0.0.lock().unwrap().ended = true;
        tap
    }

    /// What has come so far.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.0.lock().unwrap().bytes.clone()
    }

    /// What has come so far, as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Waits until what has come satisfies `enough`, everything has come, or
    /// `limit` is over; tells whether it did satisfy.
    pub fn wait(&self, limit: Duration, enough: impl Fn(&[u8]) -> bool) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.0.0.lock().unwrap();
        loop {
            if enough(&state.bytes) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return false;
            }
            state = self.0.1.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Waits for the end of the stream; tells whether it came within `limit`.
    pub fn wait_for_end(&self, limit: Duration) -> bool {
        self.wait(limit, |_| false);
        self.0.0.lock().unwrap().ended
    }
}

/// How often `text` is in `bytes`.
#[must_use]
pub fn count(bytes: &[u8], text: &str) -> usize {
    let text = text.as_bytes();
    let hits = bytes.windows(text.len()).filter(|part| *part == text);
    hits.count()
}
