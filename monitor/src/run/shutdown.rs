//! The end on a signal: at once, or after the guest has had time to shut down.

use std::time::{Duration, Instant};

use crate::error::{Error, exit};
use crate::layout;
use crate::vm::Shared;

/// What a signal that asks for the end leads to.
pub(super) struct GracefulShutdown {
    /// How long the guest may take, if it may.
    timeout: Option<Duration>,
    /// Until when it may, and the exit code if it does not end by then.
    last: Option<(Instant, u8)>,
}

impl GracefulShutdown {
    /// With so much time for the guest (`--graceful`), or none.
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        Self { timeout, last: None }
    }

    /// `signal` asks for the end. The first presses the power button, if there
    /// is time and the guest listens; the next one, or else this one, is the
    /// end: the exit code is returned.
    ///
    /// # Errors
    /// KVM refuses the button's interrupt.
    pub(super) fn on_signal(&mut self, signal: u8, shared: &Shared) -> Result<Option<u8>, Error> {
        let code = exit::SIGNAL + signal;
        match self.timeout.take() {
            Some(timeout) if shared.interrupt(layout::POWER_BUTTON_GSI)? => {
                self.last = Some((Instant::now() + timeout, code));
                Ok(None)
            }
            _ => Ok(Some(code)),
        }
    }

    /// The exit code, when the guest was asked to shut down and resets instead.
    pub(super) fn reset_code(&self) -> Option<u8> {
        self.last.map(|(_, code)| code)
    }

    /// The exit code, when the guest's time is up.
    pub(super) fn expired(&self) -> Option<u8> {
        let late = |(last, _): &(Instant, u8)| *last <= Instant::now();
        self.last.filter(late).map(|(_, code)| code)
    }

    /// How long the guest still has, if that is limited.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let (last, _) = self.last?;
        Some(last.saturating_duration_since(Instant::now()))
    }
}
