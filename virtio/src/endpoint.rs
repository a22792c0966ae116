//! A device behind its registers: what the owner holds under one lock.

use std::sync::Arc;

use crate::transport::{Action, Function, PciV1, Registers, RegistersV1, Transport, Window};
use crate::{Device, Error, QueueState, Stopped};

/// What the owner has to do after [`Endpoint::write`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// Wake the worker of this queue (a doorbell that was not an eventfd).
    Notify(u16),
    /// The device runs: wake its workers once for every queue, because a
    /// chain may have been made available before.
    Started,
    /// The device was reset. Nothing has to be done; a worker that is told
    /// later finds it [`Stopped`](crate::Step::Stopped).
    Reset,
    /// A queue was stopped, and the device with the others is started again:
    /// wake its workers, and raise the interrupt once, as after a
    /// [`resume`](Endpoint::resume).
    QueueStopped,
    /// Raise the interrupt: the driver has to look at status and config.
    Interrupt,
    /// The [messages](Transport::messages) of a PCI function's interrupts changed: pass
    /// them on, and then raise what was due while it was masked.
    Messages,
}

/// An endpoint as saved: registers and what the stopped device handed back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointStateV1 {
    /// The registers.
    pub registers: RegistersV1,
    /// The configuration space as the guest saw it.
    pub config: Vec<u8>,
    /// By queue number; empty or `None` where a queue did not run.
    pub queues: Vec<Option<QueueState>>,
    /// The block device's write-back switch.
    pub writeback: bool,
    /// What a PCI function has beyond the registers.
    pub pci: Option<PciV1>,
}

/// A device and its register window.
///
/// The owner keeps it in a mutex and calls it for register writes, changes of
/// configuration, pause and restore. Workers call the device directly and
/// must not hold this lock while they do: [`Device::stop`] waits for them.
pub struct Endpoint<'m> {
    transport: Transport,
    device: Arc<dyn Device + 'm>,
    /// What was handed back by a pause, until the resume.
    paused: Option<Stopped>,
    /// The configuration changed at a pause or resume, and the driver is to be told.
    news: bool,
}

impl<'m> Endpoint<'m> {
    /// Puts `device` behind `window`, at power-on.
    ///
    /// # Errors
    /// [`Error::DeviceShape`] if the device has more queues or configuration
    /// than the transport carries.
    pub fn new(window: Window, device: Arc<dyn Device + 'm>) -> Result<Self, Error> {
        let registers = Registers::new(device.features(), device.queue_sizes())?;
        let id = device.device_id();
        let transport = Transport::mmio(window, registers, id, device.config())?;
        Ok(Self { transport, device, paused: None, news: false })
    }

    /// Makes `device` a PCI function, at power-on: its configuration space is the page
    /// `space`, and its BAR, at guest address `base`, the page `bar`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn pci(
        space: Window,
        bar: Window,
        base: u32,
        device: Arc<dyn Device + 'm>,
    ) -> Result<Self, Error> {
        let registers = Registers::new(device.features(), device.queue_sizes())?;
        let function = Function { space, bar, base, device_id: device.device_id() };
        let transport = Transport::pci(function, registers, device.config())?;
        Ok(Self { transport, device, paused: None, news: false })
    }

    /// The transport, to look at.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// A guest's store into the window. On a reset this waits until the
    /// workers have left the device: at most one backend call each.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        if self.paused.is_some() {
            // No vCPU runs then; a late store must not start a device.
            return Effect::None;
        }
        let action = self.transport.write(offset, data);
        self.act(action)
    }

    /// A guest's store into the PCI configuration space, see [`write`](Self::write).
    pub fn write_space(&mut self, offset: u64, data: &[u8]) -> Effect {
        if self.paused.is_some() {
            return Effect::None;
        }
        let action = self.transport.write_space(offset, data);
        self.act(action)
    }

    fn act(&mut self, action: Action) -> Effect {
        match action {
            Action::None | Action::Rejected => Effect::None,
            Action::Messages => Effect::Messages,
            Action::Notify(queue) => Effect::Notify(queue),
            Action::Start => self.start(&Stopped::default(), None),
            Action::Stop => {
                let _discarded = self.device.stop();
                self.device.reset();
                self.transport.finish_reset();
                self.show_config(false);
                Effect::Reset
            }
            Action::StopQueue => {
                // What a worker is at is answered before, and shown before.
                self.pause();
                self.transport.finish_queue_stop();
                match self.resume() {
                    Effect::Started => Effect::QueueStopped,
                    other => other,
                }
            }
            Action::ConfigWrite { offset, data, len } => {
                let features = self.transport.registers().negotiated();
                let bytes = data.get(..len).unwrap_or_default();
                if self.device.write_config(features, offset, bytes) {
                    self.show_config(false);
                }
                Effect::None
            }
        }
    }

    fn start(&mut self, from: &Stopped, writeback: Option<bool>) -> Effect {
        let mut activation = self.transport.registers().activation(&from.queues);
        activation.writeback = writeback;
        let started = self.device.start(&activation);
        // Features may change what the configuration space says; after a
        // restore, it may also be another disk than the guest remembers.
        self.news |= self.show_config(writeback.is_some());
        match started {
            Ok(()) => Effect::Started,
            Err(_) if self.transport.set_needs_reset() => Effect::Interrupt,
            Err(_) => Effect::None,
        }
    }

    fn show_config(&mut self, news: bool) -> bool {
        self.transport.set_config(&self.device.config(), news)
    }

    /// Brings status and configuration in line with the device: after an
    /// outcome that asked for it, a medium change, a link change. True:
    /// raise the interrupt.
    #[must_use]
    pub fn refresh(&mut self) -> bool {
        let changed = self.show_config(true);
        let broken = self.device.is_broken() && self.transport.set_needs_reset();
        changed || broken
    }

    /// Stops the device for a snapshot or a pause. The guest must not run.
    pub fn pause(&mut self) {
        if self.paused.is_none() {
            // A worker may have broken off and not said so yet.
            self.news |= self.refresh();
            self.paused = Some(self.device.stop());
        }
    }

    /// Starts a paused or restored device again, where the driver had it
    /// running. On [`Effect::Started`] also raise the interrupt once: one
    /// may have been due at the stop, and a spurious one does no harm.
    pub fn resume(&mut self) -> Effect {
        let Some(stopped) = self.paused.take() else {
            return Effect::None;
        };
        if !self.transport.registers().is_active() {
            self.show_config(false);
            return Effect::None;
        }
        if !self.transport.registers().is_healthy() {
            // It may have become so at the pause, with the guest not told.
            return Effect::Interrupt;
        }
        let writeback = Some(stopped.writeback);
        self.start(&stopped, writeback)
    }

    /// Whether the configuration has changed at the last pause or resume: then also raise
    /// that interrupt, where a driver has one of its own for it.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// The state of a paused endpoint; `None` if it is not paused.
    #[must_use]
    pub fn save(&self) -> Option<EndpointStateV1> {
        let stopped = self.paused.as_ref()?;
        Some(EndpointStateV1 {
            registers: self.transport.registers().state().clone(),
            config: self.transport.config().to_vec(),
            queues: stopped.queues.clone(),
            writeback: stopped.writeback,
            pci: self.transport.save_bus(),
        })
    }

    /// Takes over a saved state and is paused then. Everything in it is
    /// checked: the registers here, rings and indices by
    /// [`resume`](Self::resume), which sets NEEDS_RESET if they are bad.
    ///
    /// # Errors
    /// [`Error::State`], with the endpoint as it was.
    pub fn restore(&mut self, state: &EndpointStateV1) -> Result<(), Error> {
        if state.queues.len() > state.registers.queues.len() {
            return Err(Error::State("number of queue states"));
        }
        self.transport.restore(&state.registers, &state.config, state.pci.as_ref())?;
        let _fresh = self.device.stop();
        self.device.reset();
        self.paused = Some(Stopped { queues: state.queues.clone(), writeback: state.writeback });
        // It may not have been told before it was saved.
        self.news = self.transport.registers().has_config_news();
        Ok(())
    }

    /// Resets the whole endpoint to power-on, for a reset of the machine.
    pub fn power_cycle(&mut self) {
        self.paused = None;
        let _discarded = self.device.stop();
        self.device.reset();
        self.transport.power_cycle();
        self.show_config(false);
    }
}

/// Only to be sure, at build time, that the owner can share what it has to.
const _: () = {
    const fn send<T: Send>() {}
    const fn share<T: Send + Sync>() {}
    send::<Endpoint<'static>>();
    share::<crate::blk::Block<'static>>();
    share::<crate::net::Net<'static>>();
};
