//! What the benchmark guests share: a polling virtio driver and the talk with
//! the program that measures.
//!
//! The driver negotiates what a stock driver does (VERSION_1, EVENT_IDX,
//! indirect descriptors), asks for no interrupts, and rings only where the
//! device asked for it.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use rt::irq::{self, Trigger};
use rt::window::Window;
use rt::{Mmio, fail, has_byte, machine, port, println, read_byte};

/// Entries in every queue.
pub const SIZE: u16 = 256;
/// Bytes of memory that a queue takes.
pub const RING_LEN: u64 = 0x3000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;
/// VERSION_1, EVENT_IDX, INDIRECT_DESC.
const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 28;

const VECTOR: u8 = 0x40;

/// Register windows of QEMU's microvm, from there on, and how far apart.
const QEMU: (u64, u64) = (0xfeb0_0000, 0x200);
/// A PCI function's command register: memory space, bus master.
const COMMAND: (u64, u16) = (0x04, 6);

// QEMU starts an ELF by the PVH protocol: 32-bit protected mode without paging.
// From there to where the runtime starts: long mode with its page tables.
global_asm!(
    ".section .note.Xen, \"a\"", // XEN_ELFNOTE_PHYS32_ENTRY
    "    .long 4, 4, 18",
    "    .asciz \"Xen\"",
    "    .long bench_pvh",
    ".section .text.entry, \"ax\"",
    ".code32",
    "bench_pvh:",
    "    lgdt [rt_gdt_pointer]",
    "    mov eax, 0x620",
    "    mov cr4, eax",
    "    mov eax, offset rt_pml4",
    "    mov cr3, eax",
    "    mov ecx, 0xc0000080",
    "    mov eax, 0x900",
    "    xor edx, edx",
    "    wrmsr",
    "    mov eax, 0x80010033",
    "    mov cr0, eax",
    "    mov esi, ebx", // not boot_params, but nobody looks
    "    .byte 0xea",   // far jump
    "    .long _start",
    "    .word 0x10",
    ".code64",
);

/// A device's registers.
#[derive(Clone, Copy)]
pub struct Device(Window);

impl Device {
    /// The first device of this kind, reset, and `queues` given to it.
    pub fn start(kind: u32, features: u64, queues: &[&Ring]) -> Device {
        let places = (0..24).map(|number| QEMU.0 + QEMU.1 * number);
        // SAFETY: a register window or nothing; its device is given RAM that only
        // this program's driver uses.
        let others = places.map(|base| Window::mmio(unsafe { Mmio::new(base, QEMU.1) }));
        let mut windows = [Window::new(0)].into_iter().chain(others);
        let Some(window) = windows.find(|window| window.device() == kind) else {
            fail(format_args!("no device of type {kind}"))
        };
        if let Some(space) = window.space() {
            space.write16(COMMAND.0, COMMAND.1);
        }
        for status in [0, 1, 3] {
            window.write32(0x70, status);
        }
        let features = features | FEATURES;
        for half in [0, 1] {
            window.write32(0x24, half);
            window.write32(0x20, (features >> (32 * half)) as u32);
        }
        window.write32(0x70, 11);
        if window.read32(0x70) != 11 {
            fail(format_args!("the device refuses the features"));
        }
        for (number, ring) in (0..).zip(queues) {
            window.write32(0x30, number);
            window.write32(0x38, SIZE.into());
            for (register, offset) in [(0x80, 0), (0x90, AVAILABLE), (0xa0, USED)] {
                window.write32(register, (ring.base + offset) as u32);
                window.write32(register + 4, 0);
            }
            window.write32(0x44, 1);
        }
        window.write32(0x70, 15);
        Device(window)
    }

    /// Rings the doorbell, whatever for.
    pub fn ring(&self, queue: u32) {
        self.0.write32(0x50, queue);
    }

    /// Whether the device has given up on its driver.
    pub fn needs_reset(&self) -> bool {
        self.0.read32(0x70) & 64 != 0
    }

    /// Eight bytes of the configuration space.
    pub fn config(&self) -> u64 {
        u64::from(self.0.read32(0x100)) | u64::from(self.0.read32(0x104)) << 32
    }
}

/// RAM that driver and device share.
fn shared<T>(at: u64) -> &'static T {
    // SAFETY: only called for the atomic integers below, inside a ring's or a
    // request's memory, which is RAM that nothing else uses.
    unsafe { &*(at as *const T) }
}

/// A descriptor at `at`.
pub fn describe(at: u64, address: u64, len: u32, flags: u16, next: u16) {
    let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
    shared::<AtomicU64>(at).store(address, Ordering::Relaxed);
    shared::<AtomicU64>(at + 8).store(rest, Ordering::Relaxed);
}

/// The driver's side of a queue.
pub struct Ring {
    base: u64,
    sent: u16,
    published: u16,
    seen: u16,
    /// Doorbells rung.
    pub kicks: u64,
}

impl Ring {
    /// An empty queue in the [`RING_LEN`] bytes from `base`.
    pub fn new(base: u64) -> Ring {
        for at in (base..base + RING_LEN).step_by(8) {
            shared::<AtomicU64>(at).store(0, Ordering::Relaxed);
        }
        let ring = Ring { base, sent: 0, published: 0, seen: 0, kicks: 0 };
        ring.want_no_interrupt();
        ring
    }

    /// Where descriptor `index` is.
    pub fn descriptor(&self, index: u16) -> u64 {
        self.base + 16 * u64::from(index)
    }

    /// Names as the entry to be told of one that is far from being used. (The
    /// last one would not do: the device may look after the next was taken.)
    fn want_no_interrupt(&self) {
        let event = self.base + AVAILABLE + 4 + 2 * u64::from(SIZE);
        shared::<AtomicU16>(event).store(self.seen.wrapping_add(1 << 15), Ordering::Relaxed);
    }

    /// Puts a chain into the ring; the device sees it after `publish`.
    pub fn offer(&mut self, head: u16) {
        let at = self.base + AVAILABLE + 4 + 2 * u64::from(self.sent % SIZE);
        shared::<AtomicU16>(at).store(head, Ordering::Relaxed);
        self.sent = self.sent.wrapping_add(1);
    }

    /// Shows what was offered, and rings if the device sleeps.
    pub fn publish(&mut self, device: &Device, queue: u32) {
        if self.sent == self.published {
            return;
        }
        let index = shared::<AtomicU16>(self.base + AVAILABLE + 2);
        index.store(self.sent, Ordering::Release);
        fence(Ordering::SeqCst);
        let event = self.base + USED + 4 + 8 * u64::from(SIZE);
        let event = shared::<AtomicU16>(event).load(Ordering::Relaxed);
        let ahead = self.sent.wrapping_sub(event).wrapping_sub(1);
        if ahead < self.sent.wrapping_sub(self.published) {
            device.ring(queue);
            self.kicks += 1;
        }
        self.published = self.sent;
    }

    /// The next used chain and how many of its bytes were written.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        let index = shared::<AtomicU16>(self.base + USED + 2).load(Ordering::Acquire);
        if index == self.seen {
            return None;
        }
        let at = self.base + USED + 4 + 8 * u64::from(self.seen % SIZE);
        let head = shared::<AtomicU32>(at).load(Ordering::Relaxed);
        let len = shared::<AtomicU32>(at + 4).load(Ordering::Relaxed);
        self.seen = self.seen.wrapping_add(1);
        self.want_no_interrupt();
        Some((head as u16, len))
    }
}

/// Prepares to sleep until the serial port has a line, and says so.
pub fn ready() {
    irq::route(machine::COM1_GSI, VECTOR, Trigger::Edge);
    port::out8(machine::COM1 + 4, 0b1011);
    port::out8(machine::COM1 + 1, 1);
    println(format_args!("ready"));
}

/// A line from the serial port: a word and up to four numbers. Sleeps until it
/// is there: the program that measures wants the processors for itself.
pub fn order() -> (u8, [u64; 4]) {
    let (mut word, mut numbers, mut field) = (0, [0; 4], 0);
    loop {
        while !has_byte() {
            irq::wait();
        }
        let byte = read_byte().unwrap_or(0);
        match byte {
            b'\n' => return (word, numbers),
            b' ' => field += 1,
            b'0'..=b'9' if field > 0 => {
                numbers[field - 1] = numbers[field - 1] * 10 + u64::from(byte - b'0');
            }
            _ => word = byte,
        }
    }
}

/// What an order took.
pub fn answer(cycles: u64, kicks: u64) {
    println(format_args!("took {cycles} {kicks}"));
}
