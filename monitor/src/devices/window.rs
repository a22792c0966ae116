//! Where the register windows of virtio devices lie.

use crate::layout;

/// A virtio-mmio window and its interrupt.
#[derive(Clone, Copy, Debug)]
pub struct VirtioWindow {
    /// Guest physical address.
    pub base: u32,
    /// Bytes.
    pub size: u32,
    /// Global system interrupt, edge-triggered.
    pub gsi: u32,
}

/// How a guest finds the virtio devices.
#[derive(Clone, Debug)]
pub enum Windows {
    /// At these addresses.
    Mmio(Vec<VirtioWindow>),
    /// On the PCI bus, if there is one.
    Pci,
}

impl Windows {
    /// The MMIO windows.
    pub fn mmio(&self) -> &[VirtioWindow] {
        match self {
            Self::Mmio(windows) => windows,
            Self::Pci => &[],
        }
    }
}

/// The first `count` windows.
pub fn windows(count: usize) -> Vec<VirtioWindow> {
    let window = |index: u32| VirtioWindow {
        // Below 4 GiB and few, so both fit.
        base: layout::WINDOWS as u32 + index * layout::WINDOW_SIZE as u32,
        size: layout::WINDOW_SIZE as u32,
        gsi: layout::FIRST_DEVICE_GSI + index,
    };
    (0u32..).take(count).map(window).collect()
}
