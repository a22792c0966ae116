//! The I/O APIC (Intel 82093AA), in user space beside KVM's local APICs.
//!
//! KVM's own I/O APIC sits on KVM's I/O bus, and a VM with anything on that
//! bus takes a grace period to destroy: 13 ms measured, against 0.1 ms
//! without. All interrupts of this machine are edges that reach KVM by irqfd,
//! so all that is left to do here is to turn a redirection entry into a
//! message-signalled route when the guest programs it.

use mote_snapshot::IoApicV1;

use crate::layout;

/// Most pins, which are also the global system interrupts of the machine.
pub const MAX_PINS: usize = 32;

/// Redirection entry: the pin is masked.
const MASKED: u64 = 1 << 16;
/// Pins that no irqfd leads to: a press of the power button and a new
/// generation ID are worth an [interrupt](IoApic::route) of their own, but no
/// work at every start.
const EVENTS: [usize; 2] = [layout::POWER_BUTTON_GSI as usize, layout::GENERATION_GSI as usize];
/// Bits of an entry that a guest can set; delivery status and remote IRR are
/// read-only.
const WRITABLE: u64 = !(1 << 12 | 1 << 14);

/// A message-signalled interrupt that stands for an unmasked pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The pin.
    pub gsi: u32,
    /// MSI address, low half.
    pub address: u32,
    /// MSI data.
    pub data: u32,
}

/// Register state; the monitor reads it out into KVM's routing table.
#[derive(Clone, Debug)]
pub struct IoApic {
    select: u8,
    id: u8,
    entries: Box<[u64]>,
}

impl IoApic {
    /// An I/O APIC at power-on with `pins` pins, at most [`MAX_PINS`]. Fewer
    /// are better: a stock kernel makes 20 exits for each while it boots.
    pub fn new(pins: usize) -> Self {
        Self { select: 0, id: 0, entries: vec![MASKED; pins.clamp(1, MAX_PINS)].into() }
    }

    /// Number of pins.
    pub fn pins(&self) -> usize {
        self.entries.len()
    }

    /// All of its state.
    pub fn save(&self) -> IoApicV1 {
        IoApicV1 { select: self.select, id: self.id, entries: self.entries.to_vec() }
    }

    /// Takes over a saved state, with what a guest could have written.
    ///
    /// # Errors
    /// It has another number of pins.
    pub fn restore(&mut self, state: &IoApicV1) -> Result<(), String> {
        let (there, here) = (state.entries.len(), self.pins());
        if there != here {
            return Err(format!("I/O APIC: {there} pins were saved, this VM has {here}"));
        }
        self.select = state.select;
        self.id = state.id & 0xf;
        let entries = state.entries.iter().map(|entry| entry & WRITABLE);
        self.entries = entries.collect();
        Ok(())
    }

    /// Reads a 32-bit register at byte `offset` of the window.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => self.select.into(),
            0x10 => self.read_selected(),
            _ => 0,
        }
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            0 | 2 => u32::from(self.id) << 24,
            // Version 0x11 has no EOI register, which edges do not need.
            1 => 0x11 | (self.pins() as u32 - 1) << 16,
            select => match self.entry(select) {
                Some(entry) if select % 2 == 0 => entry as u32,
                Some(entry) => (entry >> 32) as u32,
                None => 0,
            },
        }
    }

    /// Writes a 32-bit register; tells whether a route may have changed.
    pub fn write(&mut self, offset: u64, value: u32) -> bool {
        match (offset, self.select) {
            (0x00, _) => self.select = value as u8,
            (0x10, 0) => self.id = (value >> 24) as u8 & 0xf,
            (0x10, select) => return self.write_entry(select, value),
            _ => {}
        }
        false
    }

    fn write_entry(&mut self, select: u8, value: u32) -> bool {
        let Some(entry) = self.entry(select) else {
            return false;
        };
        let new = match select % 2 {
            0 => entry & !0xffff_ffff | u64::from(value),
            _ => entry & 0xffff_ffff | u64::from(value) << 32,
        };
        let pin = usize::from(select - 0x10) / 2;
        if let Some(slot) = self.entries.get_mut(pin) {
            *slot = new & WRITABLE;
        }
        // Masked before and after: nothing that KVM knows of has changed.
        entry != new & WRITABLE && (entry & new & MASKED) == 0 && !EVENTS.contains(&pin)
    }

    fn entry(&self, select: u8) -> Option<u64> {
        let register = select.checked_sub(0x10)?;
        self.entries.get(usize::from(register) / 2).copied()
    }

    /// The routes of all unmasked pins but those that have none in KVM.
    pub fn routes(&self) -> impl Iterator<Item = Route> + '_ {
        (0..self.pins())
            .filter(|pin| !EVENTS.contains(pin))
            .filter_map(|pin| self.route(pin as u32))
    }

    /// The route of pin `gsi`; none if it is masked or does not exist.
    pub fn route(&self, gsi: u32) -> Option<Route> {
        let entry = *self.entries.get(gsi as usize)?;
        let destination = (entry >> 56) as u32;
        let logical = (entry >> 11 & 1) as u32;
        // Vector and delivery mode. The trigger mode is left at edge,
        // whatever the guest says: no line of this machine has a level.
        let data = (entry & 0x7ff) as u32;
        (entry & MASKED == 0).then_some(Route {
            gsi,
            address: 0xfee0_0000 | destination << 12 | logical << 2,
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(apic: &mut IoApic, register: u32, value: u32) -> bool {
        assert!(!apic.write(0, register));
        apic.write(0x10, value)
    }

    #[test]
    fn a_programmed_pin_becomes_a_route() {
        let mut apic = IoApic::new(MAX_PINS);
        assert_eq!(apic.routes().count(), 0);
        // Masked writes change nothing for KVM; unmasking does.
        assert!(!set(&mut apic, 0x10 + 2 * 4 + 1, 3 << 24));
        assert!(set(&mut apic, 0x10 + 2 * 4, 0x31 | 1 << 11));
        let route = Route { gsi: 4, address: 0xfee0_3004, data: 0x31 };
        assert_eq!(apic.routes().collect::<Vec<_>>(), [route]);
        // The same value again is no change; masking is one.
        assert!(!set(&mut apic, 0x10 + 2 * 4, 0x31 | 1 << 11));
        assert!(set(&mut apic, 0x10 + 2 * 4, 1 << 16));
        assert_eq!(apic.routes().count(), 0);
    }

    /// Rare events have routes of their own, which KVM need not know.
    #[test]
    fn events_are_no_news_to_kvm() {
        let mut apic = IoApic::new(MAX_PINS);
        for gsi in EVENTS.map(|pin| pin as u32) {
            assert_eq!(apic.route(gsi), None);
            assert!(!set(&mut apic, 0x10 + 2 * gsi, 0x35));
            assert_eq!(apic.routes().count(), 0);
            assert_eq!(apic.route(gsi).map(|route| route.data), Some(0x35));
        }
        assert_eq!(apic.route(MAX_PINS as u32), None);
    }

    /// Every register and offset can be read and written, and only what the
    /// data sheet makes writable changes.
    #[test]
    fn any_access_is_harmless() {
        let mut apic = IoApic::new(MAX_PINS);
        for select in 0..=255u32 {
            for offset in 0..0x1000 {
                apic.write(0, select);
                apic.write(offset, 0xffff_ffff);
                apic.read(offset);
            }
        }
        apic.write(0, 1);
        assert_eq!(apic.read(0x10), 0x11 | 31 << 16);
        apic.write(0, 0x10);
        assert_eq!(apic.read(0x10) & (1 << 12 | 1 << 14), 0);
    }
}
