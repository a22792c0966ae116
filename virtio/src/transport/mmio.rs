//! virtio over MMIO, version 2 (virtio 1.2, 4.2).
//!
//! The window is memory that KVM shows the guest read-only: a load costs no
//! exit and runs no code here. Only stores arrive, and after each the page is
//! brought up to date before the guest goes on.
//!
//! Two stores usually do not arrive either, because KVM turns them into
//! eventfds: the doorbell, and the acknowledge **of value 1** (the used-buffer
//! bit), which has nothing to do. An acknowledge of the config bit has to
//! arrive as a store: taken from an eventfd later, it could clear a bit that
//! was set for the next change.

use virtio_bindings::virtio_mmio as reg;

use super::{Action, Registers, Window};

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "Mote".
const VENDOR: u32 = 0x6574_6f4d;
const CONFIG: usize = reg::VIRTIO_MMIO_CONFIG as usize;

/// One device's window: decodes stores, keeps the page.
#[derive(Debug)]
pub(super) struct Mmio {
    window: Window,
}

impl Mmio {
    /// The window of a device of this type, with its constant registers filled in.
    pub(super) fn new(window: Window, device_id: u32) -> Self {
        let constants = [
            (reg::VIRTIO_MMIO_MAGIC_VALUE, MAGIC),
            (reg::VIRTIO_MMIO_VERSION, VERSION),
            (reg::VIRTIO_MMIO_DEVICE_ID, device_id),
            (reg::VIRTIO_MMIO_VENDOR_ID, VENDOR),
            (reg::VIRTIO_MMIO_SHM_LEN_LOW, u32::MAX),
            (reg::VIRTIO_MMIO_SHM_LEN_HIGH, u32::MAX),
            (reg::VIRTIO_MMIO_SHM_BASE_LOW, u32::MAX),
            (reg::VIRTIO_MMIO_SHM_BASE_HIGH, u32::MAX),
        ];
        for (at, value) in constants {
            window.set(at as usize, value);
        }
        Self { window }
    }

    /// The page the guest reads.
    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    /// The guest stored `data` at byte `at` of the window.
    pub(super) fn write(&self, registers: &mut Registers, at: usize, data: &[u8]) -> Action {
        if at >= CONFIG {
            return Action::config_write(at - CONFIG, data);
        }
        // 4.2.2.2: registers take aligned 32-bit stores only; no register is at an
        // unaligned place.
        match <[u8; 4]>::try_from(data) {
            Ok(bytes) => write_register(registers, at as u32, u32::from_le_bytes(bytes)),
            Err(_) => Action::Rejected,
        }
    }

    /// Shows the configuration space.
    pub(super) fn publish_config(&self, config: &[u8]) {
        self.window.set_bytes(CONFIG, config);
    }

    /// Writes every register that can change: six stores are cheaper than
    /// knowing which did.
    pub(super) fn publish(&self, registers: &Registers) {
        let state = registers.state();
        let values = [
            (reg::VIRTIO_MMIO_DEVICE_FEATURES, registers.device_features()),
            (reg::VIRTIO_MMIO_QUEUE_NUM_MAX, registers.queue_size_max()),
            (reg::VIRTIO_MMIO_QUEUE_READY, u32::from(registers.queue_ready())),
            (reg::VIRTIO_MMIO_INTERRUPT_STATUS, state.interrupt_status),
            (reg::VIRTIO_MMIO_STATUS, u32::from(state.status)),
            (reg::VIRTIO_MMIO_CONFIG_GENERATION, state.config_generation),
        ];
        for (at, value) in values {
            self.window.set(at as usize, value);
        }
    }
}

fn write_register(registers: &mut Registers, at: u32, value: u32) -> Action {
    let accepted = match at {
        reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => {
            registers.select_device_features(value);
            true
        }
        reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => {
            registers.select_driver_features(value);
            true
        }
        reg::VIRTIO_MMIO_DRIVER_FEATURES => registers.set_driver_features(value),
        reg::VIRTIO_MMIO_QUEUE_SEL => {
            registers.select_queue(value);
            true
        }
        // No shared memory regions: every one of them has length -1.
        reg::VIRTIO_MMIO_SHM_SEL => true,
        reg::VIRTIO_MMIO_QUEUE_READY => return registers.set_queue_ready(value),
        reg::VIRTIO_MMIO_QUEUE_NOTIFY => {
            return u16::try_from(value).map_or(Action::Rejected, Action::Notify);
        }
        reg::VIRTIO_MMIO_INTERRUPT_ACK => {
            registers.acknowledge(value);
            true
        }
        reg::VIRTIO_MMIO_STATUS => return registers.set_status(value),
        _ => write_queue_register(registers, at, value),
    };
    accepted.into()
}

fn write_queue_register(registers: &mut Registers, at: u32, value: u32) -> bool {
    registers.configure_queue(|queue| match at {
        reg::VIRTIO_MMIO_QUEUE_NUM => queue.size = value,
        reg::VIRTIO_MMIO_QUEUE_DESC_LOW => set_low(&mut queue.descriptors, value),
        reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => set_high(&mut queue.descriptors, value),
        reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_low(&mut queue.available, value),
        reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_high(&mut queue.available, value),
        reg::VIRTIO_MMIO_QUEUE_USED_LOW => set_low(&mut queue.used, value),
        reg::VIRTIO_MMIO_QUEUE_USED_HIGH => set_high(&mut queue.used, value),
        _ => {}
    }) && is_queue_register(at)
}

fn is_queue_register(at: u32) -> bool {
    matches!(
        at,
        reg::VIRTIO_MMIO_QUEUE_NUM
            | reg::VIRTIO_MMIO_QUEUE_DESC_LOW
            | reg::VIRTIO_MMIO_QUEUE_DESC_HIGH
            | reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW
            | reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH
            | reg::VIRTIO_MMIO_QUEUE_USED_LOW
            | reg::VIRTIO_MMIO_QUEUE_USED_HIGH
    )
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address >> 32 << 32 | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = u64::from(value) << 32 | u64::from(*address as u32);
}
