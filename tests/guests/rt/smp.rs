//! Further CPUs.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::gate::halt;
use crate::{irq, memory, tsc};

/// CPUs that the runtime has stacks for, the first one included.
pub const MAX: usize = 32;

/// Page that a start-up interrupt sends a CPU to: free RAM below 1 MiB.
const TRAMPOLINE: u64 = 0x1_0000;

/// Inter-processor interrupts: INIT asserted, and start-up.
const INIT: u32 = 0x4500;
const START: u32 = 0x4600;

/// Time-stamp ticks to wait for a CPU: some seconds.
const TIMEOUT: u64 = 10_000_000_000;

/// Guard page and stack of the first CPU, of every other CPU (tables.s).
const FIRST_STACK_END: u64 = 0x3a_3000;
const STACK: u64 = 0x3000;

unsafe extern "C" {
    #[link_name = "rt_trampoline"]
    safe static CODE: u8;
    #[link_name = "rt_trampoline_end"]
    safe static CODE_END: u8;
    #[link_name = "rt_cpu_stack"]
    safe static CPU_STACK: AtomicU64;
    #[link_name = "rt_cpu_task"]
    safe static CPU_TASK: AtomicU64;
    #[link_name = "rt_cpu_index"]
    safe static CPU_INDEX: AtomicU64;
    #[link_name = "rt_gdt"]
    safe static GDT: [AtomicU64; 6 + 2 * MAX];
}

/// What each CPU runs, as an address, and how many have arrived.
static ENTRY: AtomicUsize = AtomicUsize::new(0);
static ARRIVED: AtomicUsize = AtomicUsize::new(0);

/// Why a CPU did not start.
#[derive(Debug)]
pub enum Error {
    /// The index is not one of 1 to [`MAX`] − 1.
    Index,
    /// It did not answer within seconds.
    Silent,
}

/// Starts the CPU with that APIC id in `entry`, in ring 3 with an 8 KiB stack
/// of its own; `index` (1 to [`MAX`] − 1) names it and chooses the stack. One
/// CPU at a time is started; it is halted when `entry` returns.
///
/// # Errors
/// The index is out of range, or the CPU does not answer.
pub fn start(apic_id: u32, index: usize, entry: fn(index: usize)) -> Result<(), Error> {
    if !(1..MAX).contains(&index) {
        return Err(Error::Index);
    }
    let code = &raw const CODE;
    let len = (&raw const CODE_END) as usize - code as usize;
    // SAFETY: the linker put the trampoline between its two symbols.
    let code = unsafe { memory::bytes(code as u64, len) };
    // SAFETY: the page is free RAM, and no CPU is in the trampoline: each
    // start waits until the CPU has left it.
    unsafe { memory::bytes_mut(TRAMPOLINE, len) }.copy_from_slice(code);
    ENTRY.store(entry as usize, Ordering::Relaxed);
    CPU_STACK.store(FIRST_STACK_END + index as u64 * STACK - 8, Ordering::Relaxed);
    CPU_TASK.store(0x30 + 16 * index as u64, Ordering::Relaxed);
    CPU_INDEX.store(index as u64, Ordering::Relaxed);
    // A CPU that is started again finds its task descriptor busy.
    GDT[6 + 2 * index].fetch_and(!(2 << 40), Ordering::Relaxed);
    let before = ARRIVED.load(Ordering::SeqCst);
    irq::enable_local();
    irq::send(apic_id, INIT);
    irq::send(apic_id, START | (TRAMPOLINE >> 12) as u32);
    let begin = tsc();
    while ARRIVED.load(Ordering::SeqCst) == before {
        if tsc().wrapping_sub(begin) > TIMEOUT {
            return Err(Error::Silent);
        }
        core::hint::spin_loop();
    }
    Ok(())
}

/// Where the stub of a further CPU arrives in ring 3.
#[unsafe(no_mangle)]
extern "C" fn rt_cpu_ring3(index: usize) -> ! {
    // SAFETY: `start` stored a function of this type.
    let entry: fn(usize) = unsafe { core::mem::transmute(ENTRY.load(Ordering::Relaxed)) };
    ARRIVED.fetch_add(1, Ordering::SeqCst);
    entry(index);
    halt()
}
