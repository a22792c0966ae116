//! Drives a disk and a network interface by the crate virtio-drivers, which stops
//! a device's queues when it is dropped, and waits until each says that it is
//! stopped. Each device is made, used and dropped three times.
#![no_std]
#![no_main]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use rt::{Boot, fail, machine, println};
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

const WINDOW: usize = 0x1000;
const ROUNDS: u8 = 3;

/// RAM that nothing else uses, from 16 MiB on: all of it is mapped where it is.
static NEXT: AtomicU64 = AtomicU64::new(16 << 20);

struct Identity;

// SAFETY: pages are given out once, zero, page-aligned and mapped for good.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let at = NEXT.fetch_add((pages * PAGE_SIZE) as u64, Ordering::Relaxed);
        // SAFETY: RAM that only the caller has.
        unsafe { core::ptr::write_bytes(at as *mut u8, 0, pages * PAGE_SIZE) };
        (at, NonNull::new(at as *mut u8).unwrap())
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(at: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(at as *mut u8).unwrap()
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.as_ptr().cast::<u8>() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

fn transport(index: usize) -> MmioTransport<'static> {
    let at = machine::VIRTIO as usize + index * WINDOW;
    let header = NonNull::new(at as *mut VirtIOHeader).unwrap();
    // SAFETY: a register window, of which there is one driver at a time.
    unsafe { MmioTransport::new(header, WINDOW) }.unwrap()
}

fn disk(round: u8) {
    let mut disk = VirtIOBlk::<Identity, _>::new(transport(0)).unwrap();
    let sector = usize::from(round) * 5;
    let written = [round + 1; 4 * SECTOR_SIZE];
    disk.write_blocks(sector, &written).unwrap();
    disk.flush().unwrap();
    let mut read = [0; 4 * SECTOR_SIZE];
    disk.read_blocks(sector, &mut read).unwrap();
    if read != written {
        fail(format_args!("round {round}: reads something else"));
    }
}

fn net(round: u8) {
    let mut net = VirtIONetRaw::<Identity, _, 16>::new(transport(1)).unwrap();
    let mut frame = [0; 12 + 60];
    let header = net.fill_buffer_header(&mut frame).unwrap();
    frame[header..header + 6].fill(0xff);
    frame[header + 6..header + 12].copy_from_slice(&net.mac_address());
    frame[header + 12..header + 15].copy_from_slice(&[0x88, 0xb5, round]);
    // A buffer that is with the device when its queue is stopped.
    let mut buffer = [0; 2048];
    // SAFETY: the buffer lives longer than the driver.
    unsafe { net.receive_begin(&mut buffer) }.unwrap();
    net.send(&frame[header..]).unwrap();
}

/// A stopped queue stays so until the device is reset.
fn stopped() {
    let mut transport = transport(0);
    transport.set_status(virtio_drivers::transport::DeviceStatus::empty());
    drop(VirtIOBlk::<Identity, _>::new(self::transport(0)).unwrap());
    if transport.queue_used(0) {
        fail(format_args!("a queue is in use after a reset"));
    }
}

#[unsafe(no_mangle)]
fn main(_: &Boot) {
    for round in 0..ROUNDS {
        disk(round);
        net(round);
        println(format_args!("round {round}"));
    }
    stopped();
    println(format_args!("foreign ok"));
}
