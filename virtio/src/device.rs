//! The contract between a device and whoever owns it.

use std::time::Duration;

use crate::{Error, QueueConfig, QueueState};

/// One queue as the driver set it up, and where work in it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSetup {
    /// Size and addresses, still claims: the device checks them against RAM.
    pub config: QueueConfig,
    /// Fresh, or as [`Device::stop`] handed it back.
    pub state: QueueState,
}

/// Everything a device needs to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    /// The features both sides agreed on.
    pub features: u64,
    /// By queue number; `None` where the driver left a queue unused.
    pub queues: Vec<Option<QueueSetup>>,
    /// The block device's write-back switch, if it was saved; `None` to start
    /// with what [`Device::reset`] and the driver's config writes left.
    pub writeback: Option<bool>,
}

/// What a stopped device hands back: enough to start it again here or in
/// another process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stopped {
    /// By queue number, as in [`Activation::queues`].
    pub queues: Vec<Option<QueueState>>,
    /// The block device's write-back switch; false for other devices.
    pub writeback: bool,
}

/// A virtio device, seen from its owner.
///
/// A device is created stopped. It has an **identity** (type and features),
/// a **configuration space**, and **queues** with a greatest size each; these
/// can be asked for at any time. The driver reaches a device only through the
/// transport, which calls it in this order:
///
/// 1. [`start`](Device::start): the driver is ready. The device checks each
///    queue against guest memory and from then on its `run` methods work.
///    It refuses the whole start if one queue is bad.
/// 2. Workers call the device's own `run` methods, from any thread.
/// 3. [`stop`](Device::stop): no request is in flight when it returns. It
///    waits for workers that are inside `run` (these notice and leave after
///    the request they are at), takes back what was taken from the rings but
///    not done, and hands over the state of each queue. Requests that must be
///    done again are in it. A stopped device may be started again with that
///    state: pause, snapshot and restore are nothing else.
/// 4. [`reset`](Device::reset): back to power-on. Only on a stopped device.
///
/// A device never sees a register, a thread or an event: `start` and `stop`
/// come from the owner under the endpoint's lock, `run` from workers without.
pub trait Device: Send + Sync {
    /// The device type (virtio 1.2, 5): 1 network, 2 block.
    fn device_id(&self) -> u32;

    /// The features offered.
    fn features(&self) -> u64;

    /// The greatest size of each queue: powers of two up to
    /// [`MAX_QUEUE_SIZE`](crate::MAX_QUEUE_SIZE).
    fn queue_sizes(&self) -> Vec<u16>;

    /// The configuration space now, at most 256 bytes.
    fn config(&self) -> Vec<u8>;

    /// The driver wrote `data` at byte `offset` of the configuration space.
    /// `features` are the negotiated ones, 0 before they are. True if the
    /// space changed. Writes to other than writable fields do nothing.
    fn write_config(&self, features: u64, offset: usize, data: &[u8]) -> bool;

    /// Starts the queues. Starting a running device is refused.
    ///
    /// # Errors
    /// The first queue that is not wholly in RAM, misaligned, or whose state
    /// contradicts itself.
    fn start(&self, activation: &Activation) -> Result<(), Error>;

    /// Stops the queues and hands back their state; empty if not running.
    fn stop(&self) -> Stopped;

    /// Returns to power-on state.
    fn reset(&self);

    /// True once a running device has met a chain that no driver may build;
    /// it does nothing more until it is stopped.
    fn is_broken(&self) -> bool;
}

/// What `run` does when the ring is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenEmpty {
    /// Arm the doorbell and look once more: [`Step::Idle`] means sleep.
    Arm,
    /// Leave the doorbell alone: [`Step::Empty`] means look again soon.
    Poll,
}

/// Why `run` returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do and the doorbell is armed: sleep until it rings. For
    /// [`Net::run_rx`](crate::net::Net::run_rx): the tap is dry, sleep until
    /// it can be read.
    Idle,
    /// Nothing to do, doorbell not armed ([`WhenEmpty::Poll`]).
    Empty,
    /// Frames may be waiting but the driver gave no buffer: sleep until the
    /// receive doorbell rings, and leave the tap alone until then.
    NoBuffers,
    /// As [`NoBuffers`](Self::NoBuffers), but run again at this time at the
    /// latest: a frame that has been read is not kept for longer.
    NoBuffersUntil(Duration),
    /// The budget is spent: run again after looking at other work.
    More,
    /// A rate limit, or a tap that is down: run again at this time.
    WaitUntil(Duration),
    /// The host's disk is full. The request is kept and done again by the
    /// next `run`: pause the VM, tell the user, run again on resume.
    Paused,
    /// The driver broke the queue: call [`Endpoint::refresh`] and sleep.
    ///
    /// [`Endpoint::refresh`]: crate::Endpoint::refresh
    Broken,
    /// The device is stopped: sleep until it is started.
    Stopped,
}

/// The result of one `run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    /// Why it returned.
    pub step: Step,
    /// The driver wants to know about what was done: raise the interrupt.
    pub signal: bool,
    /// The configuration space or health changed: call
    /// [`Endpoint::refresh`](crate::Endpoint::refresh).
    pub refresh: bool,
}

impl Outcome {
    /// An outcome without signal or refresh.
    pub(crate) fn quiet(step: Step) -> Self {
        Self { step, signal: false, refresh: false }
    }
}
