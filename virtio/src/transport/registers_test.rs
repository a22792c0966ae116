//! The status machine in every order, and restored registers.

use super::{Action, QueueRegistersV1, Registers, RegistersV1};
use crate::{Error, features};

const OFFERED: u64 = features::COMMON | 0b101;
const AGREED: u64 = features::VERSION_1 | 0b100;

fn registers() -> Registers {
    Registers::new(OFFERED, vec![16, 256]).unwrap()
}

fn negotiate(registers: &mut Registers, features: u64) {
    assert_eq!(registers.set_status(1), Action::None);
    assert_eq!(registers.set_status(3), Action::None);
    registers.select_driver_features(0);
    assert!(registers.set_driver_features(features as u32));
    registers.select_driver_features(1);
    assert!(registers.set_driver_features((features >> 32) as u32));
}

fn started() -> Registers {
    let mut registers = registers();
    negotiate(&mut registers, AGREED);
    assert_eq!(registers.set_status(0xb), Action::None);
    registers.select_queue(1);
    assert!(registers.configure_queue(|queue| {
        queue.size = 64;
        queue.used = 0x3000;
    }));
    assert_eq!(registers.set_queue_ready(1), Action::None);
    assert_eq!(registers.set_status(0xf), Action::Start);
    registers
}

#[test]
fn a_driver_that_keeps_the_order_starts_the_device() {
    let registers = started();
    assert!(registers.is_healthy());
    let activation = registers.activation(&[]);
    assert_eq!(activation.features, AGREED);
    assert_eq!(activation.queues[0], None);
    assert_eq!(activation.queues[1].as_ref().unwrap().config.size, 64);
    assert_eq!(registers.state().interrupt_status, 1);
}

#[test]
fn one_write_may_set_several_bits_in_order() {
    let mut registers = registers();
    let _ = registers.set_status(3);
    registers.select_driver_features(1);
    registers.set_driver_features((features::VERSION_1 >> 32) as u32);
    assert_eq!(registers.set_status(0xf), Action::Start);
}

#[test]
fn bits_out_of_order_are_not_set() {
    for (value, expected) in [(2, 0), (4, 0), (8, 0), (5, 1), (9, 1), (0xf, 3), (0x101, 0)] {
        let mut registers = registers();
        assert_eq!(registers.set_status(value), Action::Rejected);
        assert_eq!(registers.state().status, expected, "{value:#x}");
    }
    // Unknown bits, the device's own bit, and bits that would be cleared.
    for value in [0x13, 0x23, 0x43, 1, 2, 0x8] {
        let mut registers = registers();
        let _ = registers.set_status(3);
        assert_eq!(registers.set_status(value), Action::Rejected);
        assert_eq!(registers.state().status, 3, "{value:#x}");
    }
}

#[test]
fn features_not_offered_or_not_modern_are_refused() {
    for features in [0, 0b100, AGREED | 0b10, AGREED | 1 << 34, u64::MAX] {
        let mut registers = registers();
        negotiate(&mut registers, features);
        assert_eq!(registers.set_status(0xb), Action::Rejected);
        assert_eq!(registers.state().status, 3);
        assert_eq!(registers.negotiated(), 0);
        assert_eq!(registers.set_status(0xf), Action::Rejected);
        assert!(!registers.is_active());
    }
}

#[test]
fn features_are_frozen_once_agreed_and_closed_before_driver() {
    let mut registers = registers();
    assert!(!registers.set_driver_features(1));
    let _ = registers.set_status(1);
    assert!(!registers.set_driver_features(1));
    let mut registers = started();
    for half in [0, 1, 2, u32::MAX] {
        registers.select_driver_features(half);
        assert!(!registers.set_driver_features(0b1));
    }
    assert_eq!(registers.negotiated(), AGREED);
}

#[test]
fn other_halves_of_features_may_only_be_cleared() {
    let mut registers = registers();
    let _ = registers.set_status(3);
    registers.select_driver_features(2);
    assert!(registers.set_driver_features(0));
    assert!(!registers.set_driver_features(1));
    registers.select_device_features(2);
    assert_eq!(registers.device_features(), 0);
}

/// Flaw table line 1: queue registers writable after activation
/// (Firecracker CVE-2026-5747).
#[test]
fn queues_are_frozen_after_activation() {
    let mut registers = started();
    let before = registers.activation(&[]);
    for queue in 0..3 {
        registers.select_queue(queue);
        assert!(!registers.configure_queue(|queue| queue.size = 1));
        assert_eq!(registers.set_queue_ready(1), Action::Rejected);
    }
    assert_eq!(registers.activation(&[]), before);
    // Also when the device needs a reset, and while it is being reset.
    let _ = registers.set_needs_reset();
    assert!(!registers.configure_queue(|queue| queue.size = 1));
    assert_eq!(registers.set_status(0), Action::Stop);
    assert!(!registers.configure_queue(|queue| queue.size = 1));
    assert_eq!(registers.activation(&[]), before);
}

/// One can be stopped, and then stays so: what it is told to be says nothing
/// to a device that runs.
#[test]
fn a_running_queue_is_stopped_when_the_device_says_so() {
    let mut registers = started();
    assert_eq!(registers.set_queue_ready(0), Action::StopQueue);
    assert!(registers.queue_ready(), "not before the device has stopped it");
    registers.finish_queue_stop();
    assert!(!registers.queue_ready() && registers.is_healthy());
    assert_eq!(registers.activation(&[]).queues, [None, None]);
    assert_eq!(registers.set_queue_ready(1), Action::Rejected);
    assert!(!registers.configure_queue(|queue| queue.size = 1));
    assert_eq!(registers.set_queue_ready(0), Action::None);
    let mut restored = self::registers();
    restored.restore(registers.state()).unwrap();
    assert_eq!(restored.set_queue_ready(1), Action::Rejected);
}

#[test]
fn a_ready_queue_is_frozen_until_it_is_not_ready() {
    let mut registers = registers();
    assert!(!registers.configure_queue(|queue| queue.size = 1));
    let _ = registers.set_status(3);
    assert!(registers.configure_queue(|queue| queue.size = 8));
    assert_eq!(registers.set_queue_ready(1), Action::None);
    assert!(registers.queue_ready());
    assert!(!registers.configure_queue(|queue| queue.size = 1));
    assert_eq!(registers.set_queue_ready(2), Action::Rejected);
    assert_eq!(registers.set_queue_ready(0), Action::None);
    assert!(registers.configure_queue(|queue| queue.size = 4));
    registers.select_queue(2);
    assert!(!registers.configure_queue(|queue| queue.size = 1));
    assert_eq!((registers.queue_size_max(), registers.queue_ready()), (0, false));
}

#[test]
fn a_reset_has_to_be_finished_and_forgets_everything() {
    let mut registers = started();
    let _ = registers.config_changed();
    registers.next_generation();
    assert_eq!(registers.set_status(0), Action::Stop);
    assert!(!registers.is_active());
    for value in [0, 1, 3, 0xf] {
        assert_eq!(registers.set_status(value), Action::Rejected);
    }
    assert!(!registers.set_driver_features(0));
    registers.finish_reset();
    let power_on = RegistersV1 {
        config_generation: 1,
        queues: vec![QueueRegistersV1::default(); 2],
        ..RegistersV1::default()
    };
    assert_eq!(registers.state(), &power_on);
    negotiate(&mut registers, AGREED);
    assert_eq!(registers.set_status(0xf), Action::Start);
}

#[test]
fn a_device_that_needs_a_reset_says_so_once() {
    let mut registers = started();
    assert!(registers.set_needs_reset());
    assert!(!registers.set_needs_reset());
    assert_eq!(registers.state().status, 0x4f);
    assert_eq!(registers.state().interrupt_status, 3);
    assert!(registers.is_active() && !registers.is_healthy());
    // A driver writes back what it read.
    assert_eq!(registers.set_status(0xcf), Action::None);
    // It did not see the device's bit yet; the bit stays.
    assert_eq!(registers.set_status(0x8f), Action::None);
    assert_eq!(registers.state().status, 0xcf);
    assert_eq!(registers.set_status(0xc7), Action::Rejected);
    // Before DRIVER_OK nobody is interrupted.
    let mut registers = self::registers();
    let _ = registers.set_status(3);
    assert!(!registers.set_needs_reset());
    assert_eq!(registers.state().interrupt_status, 0);
    assert_eq!(registers.set_status(0xf | 0x40), Action::Rejected);
    assert!(!registers.is_active());
}

#[test]
fn a_failed_driver_starts_nothing() {
    let mut registers = registers();
    negotiate(&mut registers, AGREED);
    assert_eq!(registers.set_status(0x83), Action::None);
    assert_eq!(registers.set_status(0x8f), Action::Rejected);
    assert!(!registers.configure_queue(|queue| queue.size = 1));
    let mut registers = self::registers();
    negotiate(&mut registers, AGREED);
    assert_eq!(registers.set_status(0x8f), Action::Rejected);
    assert!(!registers.is_active());
}

#[test]
fn only_the_config_bit_is_acknowledged() {
    let mut registers = started();
    assert!(registers.config_changed());
    registers.acknowledge(1);
    assert_eq!(registers.state().interrupt_status, 3);
    registers.acknowledge(u32::MAX);
    assert_eq!(registers.state().interrupt_status, 1);
}

#[test]
fn impossible_devices_are_refused() {
    for sizes in [vec![0], vec![3], vec![2048], vec![1; 257]] {
        let error = Registers::new(OFFERED, sizes).unwrap_err();
        assert_eq!(error, Error::DeviceShape);
    }
}

/// Flaw table lines 1 and 15: registers restored from outside
/// (Firecracker CVE-2026-5747, QEMU CVE-2013-4535).
#[test]
fn restored_registers_are_checked() {
    let good = started().state().clone();
    let mut fresh = registers();
    fresh.restore(&good).unwrap();
    assert_eq!(fresh.state(), &good);
    assert!(fresh.is_healthy());
    let bad: [&dyn Fn(&mut RegistersV1); 13] = [
        &|s| s.status = 0x1f,
        &|s| s.status = 4,
        &|s| s.status = 7,
        &|s| s.status = 0xe,
        &|s| s.driver_features = AGREED | 2,
        &|s| s.driver_features = 0,
        &|s| s.interrupt_status = 4,
        &|s| s.queues.clear(),
        &|s| s.queues.push(QueueRegistersV1::default()),
        &|s| s.queues[1].config.size = 512,
        &|s| s.queues[1].config.size = 0,
        &|s| s.queues[1].config.size = 63,
        &|s| s.queues[0].ready = true,
    ];
    for (i, change) in bad.iter().enumerate() {
        let mut state = good.clone();
        change(&mut state);
        let mut registers = registers();
        let before = registers.state().clone();
        let error = registers.restore(&state).unwrap_err();
        assert!(matches!(error, Error::State(_)), "change {i}");
        assert_eq!(registers.state(), &before, "change {i}");
    }
}
