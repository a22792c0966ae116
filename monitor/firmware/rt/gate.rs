//! Ring 3's side of the gate to ring 0 (entry.s).

use core::arch::asm;

/// Numbers of the services, in the order of the table in entry.s.
#[cfg_attr(not(tests), allow(dead_code, reason = "some are for the tests' guests"))]
#[derive(Clone, Copy)]
#[repr(u64)]
pub(crate) enum Service {
    Out8,
    Out16,
    Out32,
    In8,
    In16,
    In32,
    Outs,
    Wait,
    InterruptsOn,
    InterruptsOff,
    Halt,
    Triple,
    ReadMsr,
    WriteMsr,
    Flush,
    Scan,
    Fill,
    Enter,
    EnterPvh,
}

/// What a service takes; each uses what it needs.
#[derive(Clone, Copy, Default)]
pub(crate) struct Registers {
    pub(crate) rcx: u64,
    pub(crate) rdx: u64,
    pub(crate) rsi: u64,
    pub(crate) rdi: u64,
}

/// Calls ring 0; returns rax, and what is left in rdx and rsi.
///
/// # Safety
/// The service must be sound with these registers: `Outs` reads `rcx` bytes at
/// `rsi`, `Scan` writes `rcx` bytes at `rdi`, `Flush` makes page-table changes
/// visible, `WriteMsr` may change how the CPU works, `Enter` and `EnterPvh` leave
/// the program.
pub(crate) unsafe fn call(service: Service, registers: Registers) -> (u64, u64, u64) {
    let (rax, rdx, rsi);
    // SAFETY: the gate keeps every register but those named here; what the
    // service does is the caller's promise.
    unsafe {
        asm!(
            "call rt_gate",
            inlateout("rax") service as u64 => rax,
            inlateout("rcx") registers.rcx => _,
            inlateout("rdx") registers.rdx => rdx,
            inlateout("rsi") registers.rsi => rsi,
            inlateout("rdi") registers.rdi => _,
        );
    }
    (rax, rdx, rsi)
}

/// Stops this CPU for good: halted, interrupts off.
pub fn halt() -> ! {
    loop {
        // SAFETY: halting touches no memory.
        unsafe { call(Service::Halt, Registers::default()) };
    }
}

/// Takes the interrupt table away and causes an exception.
pub fn triple_fault() -> ! {
    loop {
        // SAFETY: this CPU executes nothing after it.
        unsafe { call(Service::Triple, Registers::default()) };
    }
}

/// Leaves this program for a kernel whose 64-bit entry point is `entry`, in
/// ring 0 and in the state in which the monitor enters one, with the address
/// of its boot parameters (Linux x86 boot protocol, "64-bit boot protocol").
///
/// # Safety
/// The monitor's page tables and GDT must still be where it put them, and no
/// device may go on writing to memory.
pub unsafe fn enter(entry: u64, params: u64) -> ! {
    let registers = Registers { rsi: params, rdi: entry, ..Registers::default() };
    loop {
        // SAFETY: nothing of this program runs after it; the rest is the
        // caller's promise.
        unsafe { call(Service::Enter, registers) };
    }
}

/// Leaves this program for a kernel whose 32-bit entry point is `entry`, in the
/// state in which the monitor enters one, with the address of its start
/// information (PVH).
///
/// # Safety
/// The monitor's page tables and GDT must still be where it put them, and no
/// device may go on writing to memory.
pub unsafe fn enter_pvh(entry: u32, info: u32) -> ! {
    let registers = Registers { rsi: info.into(), rdi: entry.into(), ..Registers::default() };
    loop {
        // SAFETY: as for `enter`.
        unsafe { call(Service::EnterPvh, registers) };
    }
}
