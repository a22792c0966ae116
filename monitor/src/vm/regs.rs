//! The registers with which a vCPU starts, at power-on and after a reset.

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, KVM_VCPUEVENT_VALID_NMI_PENDING,
    KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_SIPI_VECTOR, KVM_VCPUEVENT_VALID_SMM,
    kvm_debugregs, kvm_dtable, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_segment, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::msrs;
use crate::error::{Error, kvm};
use crate::host::memory::GuestRam;
use crate::layout;

/// How the first vCPU enters the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 64-bit long mode, RSI holding the boot parameters' address
    /// (Linux x86 boot protocol, "64-bit boot protocol").
    Linux64(u64),
    /// 32-bit protected mode without paging, EBX holding the address of
    /// `hvm_start_info` (PVH).
    Pvh(u32),
}

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// APIC base register: enabled, at its usual address; bit 8 marks the first
/// processor.
const APIC_BASE: u64 = layout::LAPIC as u64 | 1 << 11;
const APIC_BASE_BSP: u64 = 1 << 8;

/// Descriptors of the first vCPU's GDT: two null ones, then code at selector
/// 0x10 and data at 0x18, where Linux's boot protocol has them, and task state.
fn gdt(code: u64) -> [u64; 5] {
    [0, 0, code, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff]
}
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;

/// Takes a flat segment's descriptor apart (Intel SDM 3A, 3.4.5).
fn segment(gdt: &[u64; 5], index: usize) -> kvm_segment {
    let entry = gdt.get(index).copied().unwrap_or(0);
    let bit = |at: u32| (entry >> at & 1) as u8;
    let limit = (entry & 0xffff | entry >> 32 & 0xf_0000) as u32;
    kvm_segment {
        base: 0,
        limit: if bit(55) == 1 { limit << 12 | 0xfff } else { limit },
        selector: (index * 8) as u16,
        type_: (entry >> 40 & 0xf) as u8,
        present: bit(47),
        dpl: (entry >> 45 & 3) as u8,
        db: bit(54),
        s: bit(44),
        l: bit(53),
        g: bit(55),
        avl: bit(52),
        unusable: 0,
        padding: 0,
    }
}

/// Writes what the first vCPU's registers point at: its GDT, and for 64-bit
/// entry page tables that map the first GiB one to one.
///
/// # Errors
/// Guest memory is too small, which it never is.
pub fn write_tables(ram: &GuestRam, entry: Entry) -> Result<(), GuestMemoryError> {
    let code = match entry {
        Entry::Linux64(_) => CODE_64,
        Entry::Pvh(_) => CODE_32,
    };
    ram.write_obj(gdt(code), GuestAddress(layout::GDT))?;
    if matches!(entry, Entry::Pvh(_)) {
        return Ok(());
    }
    let (pml4, pdpt, pd) =
        (layout::PAGE_TABLES, layout::PAGE_TABLES + 0x1000, layout::PAGE_TABLES + 0x2000);
    // Present and writable; bit 7 makes it a 2 MiB page.
    ram.write_obj(pdpt | 3, GuestAddress(pml4))?;
    ram.write_obj(pd | 3, GuestAddress(pdpt))?;
    let mut pages = [0u8; 4096];
    for (index, page) in (0u64..).zip(pages.chunks_exact_mut(8)) {
        page.copy_from_slice(&(index << 21 | 0x83).to_le_bytes());
    }
    ram.write_slice(&pages, GuestAddress(pd))
}

fn boot_sregs(entry: Entry) -> kvm_sregs {
    let long = matches!(entry, Entry::Linux64(_));
    let gdt = gdt(if long { CODE_64 } else { CODE_32 });
    let data = segment(&gdt, 3);
    let mut sregs = kvm_sregs {
        cs: segment(&gdt, 2),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: segment(&gdt, 4),
        // A null LDT; VMX wants it marked as one.
        ldt: kvm_segment { type_: 2, unusable: 1, ..Default::default() },
        gdt: kvm_dtable { base: layout::GDT, limit: size_of_val(&gdt) as u16 - 1, padding: [0; 3] },
        cr0: CR0_PE | CR0_ET,
        apic_base: APIC_BASE | APIC_BASE_BSP,
        ..Default::default()
    };
    if long {
        sregs.cr0 |= CR0_PG;
        sregs.cr3 = layout::PAGE_TABLES;
        sregs.cr4 = CR4_PAE;
        sregs.efer = EFER_LONG_MODE;
    }
    sregs
}

fn boot_regs(entry: Entry) -> kvm_regs {
    let flags = kvm_regs { rflags: 2, ..Default::default() };
    match entry {
        Entry::Linux64(rip) => kvm_regs {
            rip,
            rsi: layout::ZERO_PAGE,
            rsp: layout::BOOT_STACK,
            rbp: layout::BOOT_STACK,
            ..flags
        },
        Entry::Pvh(rip) => kvm_regs { rip: rip.into(), rbx: layout::PVH_INFO, ..flags },
    }
}

/// Gives the first vCPU the registers with which it enters the guest.
///
/// # Errors
/// KVM refuses them.
pub fn set_entry(fd: &VcpuFd, entry: Entry) -> Result<(), Error> {
    fd.set_sregs(&boot_sregs(entry)).map_err(kvm("set system registers"))?;
    fd.set_regs(&boot_regs(entry)).map_err(kvm("set registers"))
}

/// Brings a vCPU back to power-on: `entry` for the first, `None` for the
/// others, which then wait for INIT and SIPI.
///
/// # Errors
/// KVM refuses a part of it.
pub fn power_on(fd: &VcpuFd, entry: Option<Entry>) -> Result<(), Error> {
    const WHAT: &str = "reset a vCPU";
    reset_events(fd).map_err(kvm(WHAT))?;
    // Fixed bits of DR6 and DR7 (Intel SDM 3A, table 10-1).
    let debug = kvm_debugregs { dr6: 0xffff_0ff0, dr7: 0x400, ..Default::default() };
    fd.set_debug_regs(&debug).map_err(kvm(WHAT))?;
    msrs::reset(fd)?;
    let mut sregs = entry.map_or_else(reset_sregs, boot_sregs);
    if entry.is_none() {
        sregs.apic_base &= !APIC_BASE_BSP;
    }
    // Leaving x2APIC mode goes through "disabled" (Intel SDM 3A, 12.12.5).
    let enabled = std::mem::replace(&mut sregs.apic_base, layout::LAPIC.into());
    fd.set_sregs(&sregs).map_err(kvm(WHAT))?;
    sregs.apic_base = enabled;
    fd.set_sregs(&sregs).map_err(kvm(WHAT))?;
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    if let Some(xcr0) = xcrs.xcrs.first_mut() {
        xcr0.value = 1;
    }
    // Hosts without XSAVE refuse this, and have nothing to reset.
    let _ = fd.set_xcrs(&xcrs);
    // With no component marked present all of them, AVX too, become initial, but
    // MXCSR (24 bytes in), which is always taken, as all of it is on hosts
    // without XSAVE: FCW (first) must be right, too.
    let mut xsave = kvm_xsave::default();
    for (word, value) in [(0, 0x37f), (6, 0x1f80)] {
        if let Some(word) = xsave.region.get_mut(word) {
            *word = value;
        }
    }
    // SAFETY: no dynamic feature is enabled, so KVM reads no more than this.
    unsafe { fd.set_xsave(&xsave) }.map_err(kvm(WHAT))?;
    let mut lapic = fd.get_lapic().map_err(kvm(WHAT))?;
    reset_lapic(&mut lapic, entry.is_some());
    fd.set_lapic(&lapic).map_err(kvm(WHAT))?;
    let (regs, state) = match entry {
        Some(entry) => (boot_regs(entry), KVM_MP_STATE_RUNNABLE),
        None => {
            (kvm_regs { rip: 0xfff0, rflags: 2, ..Default::default() }, KVM_MP_STATE_UNINITIALIZED)
        }
    };
    fd.set_regs(&regs).map_err(kvm(WHAT))?;
    fd.set_mp_state(kvm_mp_state { mp_state: state }).map_err(kvm(WHAT))
}

/// Forgets exceptions, interrupts, NMIs and INITs under way, and leaves SMM.
fn reset_events(fd: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let all = KVM_VCPUEVENT_VALID_NMI_PENDING
        | KVM_VCPUEVENT_VALID_SIPI_VECTOR
        | KVM_VCPUEVENT_VALID_SHADOW;
    let mut events = kvm_vcpu_events { flags: all | KVM_VCPUEVENT_VALID_SMM, ..Default::default() };
    if fd.set_vcpu_events(&events).is_ok() {
        return Ok(());
    }
    // A KVM without system management mode does not take that flag.
    events.flags = all;
    fd.set_vcpu_events(&events)
}

/// System registers at power-on, before INIT and SIPI (Intel SDM 3A, 10.1.1).
fn reset_sregs() -> kvm_sregs {
    let data = kvm_segment { limit: 0xffff, type_: 3, present: 1, s: 1, ..Default::default() };
    kvm_sregs {
        cs: kvm_segment { base: 0xffff_0000, selector: 0xf000, type_: 0xb, ..data },
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: kvm_segment { type_: 0xb, s: 0, ..data },
        ldt: kvm_segment { type_: 2, s: 0, ..data },
        gdt: kvm_dtable { limit: 0xffff, ..Default::default() },
        idt: kvm_dtable { limit: 0xffff, ..Default::default() },
        cr0: 0x6000_0010,
        apic_base: APIC_BASE | APIC_BASE_BSP,
        ..Default::default()
    }
}

/// A local APIC at power-on (Intel SDM 3A, 12.4.7.1): everything zero but the
/// id, the version, flat destinations and masked entries. As KVM has it, the
/// `first` one accepts interrupts of a PIC, which this machine lacks.
fn reset_lapic(lapic: &mut kvm_lapic_state, first: bool) {
    const MASKED: u32 = 1 << 16;
    const EXTERNAL: u32 = 7 << 8;
    // Bits 16 to 23 of the version: the last entry, of which 6 is for corrected
    // machine checks.
    let corrected = lapic.regs.get(0x32).is_some_and(|last| *last >= 6);
    let line0 = if first { EXTERNAL } else { MASKED };
    for (offset, register) in lapic.regs.chunks_exact_mut(16).enumerate() {
        let value = match offset * 16 {
            0x20 | 0x30 => continue,
            0xe0 => u32::MAX,
            0xf0 => 0xff,
            0x2f0 if corrected => MASKED,
            0x320 | 0x330 | 0x340 | 0x360 | 0x370 => MASKED,
            0x350 => line0,
            _ => 0,
        };
        register.fill(0);
        let bytes = register.iter_mut().zip(value.to_le_bytes());
        bytes.for_each(|(to, from)| *to = from as _);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Linux boot protocol: `__BOOT_CS` 0x10 to execute and read,
    /// `__BOOT_DS` 0x18 to read and write, both flat, in registers and in memory.
    #[test]
    fn the_boot_protocols_segments_are_there() {
        for (entry, long) in [(Entry::Linux64(0), 1), (Entry::Pvh(0), 0)] {
            let ram = crate::host::memory::create(8 << 20).unwrap();
            write_tables(&ram, entry).unwrap();
            let sregs = boot_sregs(entry);
            assert_eq!((sregs.cs.selector, sregs.cs.type_, sregs.cs.l), (0x10, 0xb, long));
            assert_eq!(sregs.cs.db, 1 - long);
            assert_eq!((sregs.tr.s, sregs.tr.type_, sregs.tr.selector), (0, 0xb, 0x20));
            for data in [sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss] {
                assert_eq!((data.selector, data.type_, data.s), (0x18, 3, 1));
            }
            for flat in [sregs.cs, sregs.ds] {
                assert_eq!((flat.base, flat.limit, flat.present), (0, u32::MAX, 1));
                let at = layout::GDT + u64::from(flat.selector);
                assert!(at + 7 <= sregs.gdt.base + u64::from(sregs.gdt.limit));
                let descriptor: u64 = ram.read_obj(GuestAddress(at)).unwrap();
                let limit = descriptor & 0xffff | descriptor >> 32 & 0xf_0000;
                assert_eq!((limit, descriptor >> 55 & 1), (0xf_ffff, 1));
                assert_eq!((descriptor >> 40 & 0xf) as u8, flat.type_);
                assert_eq!((descriptor >> 53 & 1) as u8, flat.l);
            }
        }
    }

    #[test]
    fn a_reset_lapic_keeps_its_identity_only() {
        let mut lapic = kvm_lapic_state::default();
        lapic.regs.fill(0x5a);
        reset_lapic(&mut lapic, false);
        let at = |offset: usize| {
            let bytes: Vec<u8> = lapic.regs[offset..offset + 4].iter().map(|b| *b as u8).collect();
            u32::from_le_bytes(bytes.try_into().unwrap())
        };
        assert_eq!(at(0x20), 0x5a5a_5a5a);
        assert_eq!((at(0xf0), at(0x320), at(0x380)), (0xff, 1 << 16, 0));
    }
}
