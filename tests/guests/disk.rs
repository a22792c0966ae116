//! Drives virtio-blk devices by polling, well-behaved or not, as the command
//! line says: `do=check` writes, flushes and reads the first device back;
//! `do=readonly` finds the second one a drive that only reads and goes on
//! reading; `do=registers` reads and writes every register of the first one in
//! every width, before and while it runs; `do=pace` says how long reads take;
//! `do=changes` does so whenever a line comes on the serial port, and tells of a
//! capacity that has changed, when the device's interrupt says so; `do=fill` writes to it
//! until a write fails; `do=discard` has pieces of it turned to
//! zeroes; `do=orders` does as the bytes say that come on the serial port, without
//! waiting for what it has asked its disk for; `do=odd` uses single sectors, and memory at odd addresses; `do=capacity` reads the capacity as a driver does until a key comes, and
//! counts those that were of two sizes; `do=loop|head|address|order` builds a
//! chain that no driver may build, and expects to be told to reset; `do=serials`
//! prints the serial numbers of all.
#![no_std]
#![no_main]

use core::sync::atomic::{Ordering, fence};

use rt::irq::{self, Trigger};
use rt::window::Window;
use rt::{Boot, Mmio, fail, has_byte, machine, memory, port, println, read_byte};

/// Descriptors in the queue.
const SIZE: u16 = 8;
/// Queue memory of a device: descriptors, available ring, used ring, then
/// request header, data and status. All of it lies in RAM that nothing else
/// uses: from 16 MiB.
const BASE: u64 = 16 << 20;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const HEADER: u64 = 0x3000;
const STATUS: u64 = 0x3100;
const DATA: u64 = 0x4000;
const SECTORS: usize = 8;

const FLUSH: u32 = 1 << 9;
const DISCARD: u32 = 1 << 13;
const WRITE_ZEROES: u32 = 1 << 14;

const IDENTIFY: u32 = 8;

const WRITE: u16 = 2;
const NEXT: u16 = 1;
const NEEDS_RESET: u32 = 64;

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    let todo = boot.option("do").unwrap_or("check");
    let mut disk = Disk::new(0);
    match todo {
        "check" => check(&mut disk),
        "readonly" => readonly(&mut Disk::new(1)),
        "registers" => registers(&mut disk),
        "pace" => pace(&mut disk),
        "changes" => changes(&mut disk),
        "fill" => fill(&mut disk),
        "discard" => discard(&mut disk),
        "odd" => odd(&mut disk),
        "orders" => orders(&mut disk),
        "capacity" => capacity(&disk),
        "serials" => (0..).map(Disk::new).take_while(Disk::is_there).for_each(serial),
        bad => attack(&mut disk, bad),
    }
    println(format_args!("{todo} ok"));
}

struct Disk {
    window: Window,
    ram: u64,
    /// What is accepted of the lower half of the features.
    features: u32,
    used: u16,
    sent: u16,
    /// Where requests' data lies.
    data: u64,
}

/// Memory that the device changes.
fn volatile(at: u64, len: u64) -> Mmio {
    // SAFETY: RAM that only this driver uses.
    unsafe { Mmio::new(at, len) }
}

impl Disk {
    fn new(index: usize) -> Self {
        Self {
            window: Window::new(index as u64),
            ram: BASE + ((index as u64) << 16),
            features: FLUSH,
            used: 0,
            sent: 0,
            data: DATA,
        }
    }

    fn is_there(&self) -> bool {
        self.window.device() == 2
    }

    fn expect(&self, what: &str, at: u64, value: u32) {
        let found = self.window.read32(at);
        if found != value {
            fail(format_args!("{what} is {found:#x}, not {value:#x}"));
        }
    }

    /// Resets the device and brings it up with VERSION_1 and its features.
    fn start(&mut self) {
        if self.window.space().is_none() {
            self.expect("the magic value", 0, 0x7472_6976);
            self.expect("the version", 4, 2);
        }
        if !self.is_there() {
            fail(format_args!("there is no disk"));
        }
        self.window.write32(0x70, 0);
        self.expect("the status after a reset", 0x70, 0);
        self.window.write32(0x70, 1);
        self.window.write32(0x70, 3);
        for (half, features) in [(0, self.features), (1, 1)] {
            self.window.write32(0x24, half);
            self.window.write32(0x20, features);
        }
        self.window.write32(0x70, 11);
        self.expect("the status with features", 0x70, 11);
        self.bytes(0, DATA as usize + SECTORS * 512).fill(0);
        self.window.write32(0x30, 0);
        self.window.write32(0x38, SIZE.into());
        for (register, offset) in [(0x80, 0), (0x90, AVAILABLE), (0xa0, USED)] {
            self.window.write32(register, (self.ram + offset) as u32);
            self.window.write32(register + 4, 0);
        }
        self.window.write32(0x44, 1);
        self.window.write32(0x70, 15);
        self.expect("the status of a running device", 0x70, 15);
        (self.used, self.sent) = (0, 0);
    }

    fn bytes(&self, offset: u64, len: usize) -> &'static mut [u8] {
        // SAFETY: RAM that only this program's driver uses, one slice at a
        // time, and not while the device owns it.
        unsafe { memory::bytes_mut(self.ram + offset, len) }
    }

    fn describe(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let descriptor = self.bytes(u64::from(index) * 16, 16);
        descriptor[..8].copy_from_slice(&address.to_le_bytes());
        descriptor[8..12].copy_from_slice(&len.to_le_bytes());
        descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
        descriptor[14..].copy_from_slice(&next.to_le_bytes());
    }

    /// Makes the chain that starts at `head` available and rings.
    fn send(&mut self, head: u16) {
        let slot = 4 + 2 * u64::from(self.sent % SIZE);
        self.bytes(AVAILABLE + slot, 2).copy_from_slice(&head.to_le_bytes());
        self.sent = self.sent.wrapping_add(1);
        fence(Ordering::SeqCst);
        self.bytes(AVAILABLE + 2, 2).copy_from_slice(&self.sent.to_le_bytes());
        fence(Ordering::SeqCst);
        self.window.write32(0x50, 0);
    }

    fn used_index(&self) -> u16 {
        volatile(self.ram + USED, 0x1000).read16(2)
    }

    /// Does one request and returns its status.
    fn request(&mut self, kind: u32, sector: u64, len: usize) -> u8 {
        self.ask(kind, sector, len);
        loop {
            if let Some(status) = self.answer() {
                return status;
            }
            core::hint::spin_loop();
        }
    }

    /// The status of the request that was asked for last, if it has been done.
    fn answer(&mut self) -> Option<u8> {
        if self.used_index() == self.used {
            return None;
        }
        self.used = self.used.wrapping_add(1);
        Some(volatile(self.ram + STATUS, 1).read8(0))
    }

    /// Asks for one request.
    fn ask(&mut self, kind: u32, sector: u64, len: usize) {
        let header = self.bytes(HEADER, 16);
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[4..8].fill(0);
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.bytes(STATUS, 1).fill(0xee);
        let data = if kind == 0 || kind == IDENTIFY { WRITE } else { 0 };
        self.describe(0, self.ram + HEADER, 16, NEXT, if len > 0 { 1 } else { 2 });
        self.describe(1, self.ram + self.data, len as u32, NEXT | data, 2);
        self.describe(2, self.ram + STATUS, 1, WRITE, 0);
        self.send(0);
    }

    fn must(&mut self, what: &str, kind: u32, sector: u64, len: usize, status: u8) {
        let found = self.request(kind, sector, len);
        if found != status {
            fail(format_args!("{what}: status {found}, not {status}"));
        }
    }

    fn sectors(&self) -> u64 {
        u64::from(self.window.read32(0x100)) | u64::from(self.window.read32(0x104)) << 32
    }
}

fn pattern(sector: u64) -> u8 {
    (sector * 7 + 1) as u8
}

fn serial(mut disk: Disk) {
    disk.start();
    disk.must("serial number", IDENTIFY, 0, 20, 0);
    let serial = disk.bytes(DATA, 20);
    let end = serial.iter().position(|byte| *byte == 0).unwrap_or(serial.len());
    println(format_args!("serial {}", str::from_utf8(&serial[..end]).unwrap_or("?")));
}

fn check(disk: &mut Disk) {
    disk.start();
    let sectors = disk.sectors();
    println(format_args!("{sectors} sectors"));
    let places = [0, 8, sectors / 2, sectors - SECTORS as u64];
    for sector in places {
        disk.bytes(DATA, SECTORS * 512).fill(pattern(sector));
        disk.must("write", 1, sector, SECTORS * 512, 0);
    }
    disk.must("flush", 4, 0, 0, 0);
    for sector in places {
        disk.bytes(DATA, SECTORS * 512).fill(0);
        disk.must("read", 0, sector, SECTORS * 512, 0);
        if disk.bytes(DATA, SECTORS * 512).iter().any(|&byte| byte != pattern(sector)) {
            fail(format_args!("sector {sector} reads back differently"));
        }
    }
    // Past the end, partial sectors, far away, unknown: refused, and the next
    // request is served.
    disk.must("read past the end", 0, sectors - 1, 1024, 1);
    disk.must("write past the end", 1, sectors, 512, 1);
    disk.must("read at the end of the world", 0, u64::MAX - 1, 4096, 1);
    for len in [0, 1, 511, 513] {
        disk.must("read of a partial sector", 0, 0, len, 1);
        disk.must("write of a partial sector", 1, 0, len, 1);
    }
    disk.must("an unknown request", 99, 0, 512, 2);
    disk.must("read", 0, 0, 512, 0);
}

/// Discards, and writes zeroes, into a disk full of a pattern.
fn discard(disk: &mut Disk) {
    disk.features |= DISCARD | WRITE_ZEROES;
    disk.start();
    for first in (0..64).step_by(SECTORS) {
        disk.bytes(DATA, SECTORS * 512).fill(0xa5);
        disk.must("write", 1, first, SECTORS * 512, 0);
    }
    for (what, kind, first) in [("discard", 11, 16u64), ("write-zeroes", 13, 40)] {
        let segment = disk.bytes(DATA, 16);
        segment[..8].copy_from_slice(&first.to_le_bytes());
        segment[8..12].copy_from_slice(&16u32.to_le_bytes());
        segment[12..].fill(0);
        disk.must(what, kind, 0, 16, 0);
    }
    disk.must("flush", 4, 0, 0, 0);
}

/// Writes single sectors and pieces of blocks, from memory at odd addresses too,
/// reads them back, and turns pieces of blocks to zeroes.
fn odd(disk: &mut Disk) {
    disk.features |= DISCARD | WRITE_ZEROES;
    disk.start();
    let sectors = disk.sectors();
    println(format_args!("{sectors} sectors of {}", disk.window.read32(0x114)));
    let places = [(1, 1), (3, 2), (7, 2), (21, 5), (sectors - 1, 1)];
    for (turn, (sector, count)) in places.into_iter().enumerate() {
        disk.data = DATA + 3 * (turn as u64 % 2);
        disk.bytes(disk.data, count * 512).fill(pattern(sector));
        disk.must("write", 1, sector, count * 512, 0);
    }
    for (turn, (sector, count)) in places.into_iter().enumerate() {
        disk.data = DATA + 4 + turn as u64 % 2;
        disk.bytes(disk.data, count * 512).fill(0);
        disk.must("read", 0, sector, count * 512, 0);
        if disk.bytes(disk.data, count * 512).iter().any(|&byte| byte != pattern(sector)) {
            fail(format_args!("sector {sector} reads back differently"));
        }
    }
    disk.data = DATA;
    for (kind, first, count) in [(13, 33u64, 14u32), (13, 50, 3), (11, 65, 30), (11, 97, 2)] {
        let segment = disk.bytes(DATA, 16);
        segment[..8].copy_from_slice(&first.to_le_bytes());
        segment[8..12].copy_from_slice(&count.to_le_bytes());
        segment[12..].fill(0);
        disk.must("zeroes", kind, 0, 16, 0);
    }
    disk.must("flush", 4, 0, 0, 0);
}

fn readonly(disk: &mut Disk) {
    disk.start();
    for _ in 0..50 {
        disk.must("write", 1, 0, 512, 1);
        disk.must("discard", 11, 0, 16, 1);
        disk.must("flush", 4, 0, 0, 0);
        disk.bytes(DATA, 512).fill(0);
        disk.must("read", 0, 0, 512, 0);
        if disk.bytes(DATA, 512).iter().any(|&byte| byte != b'c') {
            fail(format_args!("the medium reads differently"));
        }
    }
}

/// Nothing that is read or written in any width, at any offset, does harm: the
/// device comes up afterwards, and works.
fn registers(disk: &mut Disk) {
    for running in [false, true] {
        if running {
            disk.start();
        }
        for offset in 0..0xff9u64 {
            let window = disk.window.page();
            let _ = (window.read8(offset), window.read64(offset & !7));
            let _ = (window.read16(offset & !1), window.read32(offset & !3));
            // The status last: a write there may well reset the device.
            if !(0x70..0x74).contains(&offset) && offset % 16 == 0 {
                window.write8(offset, 0xff);
                window.write16(offset, 0xffff);
                window.write32(offset, 0xffff_ffff);
                window.write64(offset, u64::MAX);
            }
        }
        for status in 0..=255 {
            disk.window.write32(0x70, status);
        }
    }
    check(disk);
}

/// The vector that wakes [`changes`].
const VECTOR: u8 = 0x40;

/// Sleeps until there is news: the disk has another capacity, of which the last
/// sectors can be used, or there is a line on the serial port, of which `q` is
/// the last.
fn changes(disk: &mut Disk) {
    irq::route(machine::COM1_GSI, VECTOR, Trigger::Edge);
    port::out8(machine::COM1 + 4, 0b1011);
    port::out8(machine::COM1 + 1, 1);
    disk.start();
    disk.window.route(machine::FIRST_DEVICE_GSI, VECTOR, 1);
    // VIRTQ_AVAIL_F_NO_INTERRUPT: this driver looks for itself.
    disk.bytes(AVAILABLE, 2).copy_from_slice(&1u16.to_le_bytes());
    let mut sectors = disk.sectors();
    println(format_args!("{sectors} sectors"));
    loop {
        while !has_byte() {
            irq::wait();
            // The interrupt of a change, and not only the value.
            if disk.window.read32(0x60) & 2 == 0 || disk.sectors() == sectors {
                continue;
            }
            disk.window.write32(0x64, 2);
            sectors = disk.sectors();
            disk.bytes(DATA, SECTORS * 512).fill(0x5a);
            disk.must("write", 1, sectors - SECTORS as u64, SECTORS * 512, 0);
            println(format_args!("{sectors} sectors now"));
        }
        match read_byte() {
            Some(b'q') => return,
            Some(b'\n') => read_often(disk),
            _ => {}
        }
    }
}

/// `r` reads, which is told of when it is done; `d` resets the device; `b` resets the
/// machine; `q` powers off; anything else is echoed.
fn orders(disk: &mut Disk) {
    irq::route(machine::COM1_GSI, VECTOR, Trigger::Edge);
    port::out8(machine::COM1 + 4, 0b1011);
    port::out8(machine::COM1 + 1, 1);
    let restart = |disk: &mut Disk| {
        disk.start();
        disk.window.route(machine::FIRST_DEVICE_GSI, VECTOR, 1);
    };
    restart(disk);
    println(format_args!("ready"));
    loop {
        if let Some(status) = disk.answer() {
            println(format_args!("read {status}"));
        }
        match read_byte() {
            Some(b'r') => disk.ask(0, 0, SECTORS * 512),
            Some(b'd') => {
                restart(disk);
                println(format_args!("device reset"));
            }
            Some(b'b') => machine::reset(machine::Reset::Acpi),
            Some(b'q') => return,
            Some(byte) => println(format_args!("echo {}", char::from(byte))),
            None => irq::wait(),
        }
    }
}

/// The capacity is 0x800 sectors or 0x1_0000_1000, and never a half of each.
fn capacity(disk: &Disk) {
    let (mut changes, mut torn, mut last) = (0u32, 0u32, disk.sectors());
    println(format_args!("watching"));
    while !has_byte() {
        for _ in 0..100_000 {
            let generation = disk.window.read32(0xfc);
            let sectors = disk.sectors();
            if disk.window.read32(0xfc) == generation && sectors != last {
                changes += 1;
                torn += u32::from(sectors != 0x800 && sectors != 0x1_0000_1000);
                last = sectors;
            }
        }
    }
    println(format_args!("changes {changes}, torn {torn}"));
}

/// Says how long 120 reads of 4 KiB take.
fn pace(disk: &mut Disk) {
    disk.start();
    read_often(disk);
}

fn read_often(disk: &mut Disk) {
    let start = rt::tsc();
    (0..120).for_each(|_| disk.must("read", 0, 0, SECTORS * 512, 0));
    println(format_args!("pace took {}", rt::tsc() - start));
}

/// Writes everywhere until the host has no more room and says so.
fn fill(disk: &mut Disk) {
    disk.start();
    let places = (0..disk.sectors()).step_by(SECTORS);
    disk.bytes(DATA, SECTORS * 512).fill(0x77);
    let full = places.into_iter().find(|sector| disk.request(1, *sector, SECTORS * 512) != 0);
    println(format_args!("error at {full:?}"));
    disk.must("read", 0, 0, SECTORS * 512, 0);
}

/// Builds a bad chain; the device must say so, stay quiet, and come back after
/// a reset.
fn attack(disk: &mut Disk, how: &str) {
    for _ in 0..20 {
        disk.start();
        let (header, status) = (disk.ram + HEADER, disk.ram + STATUS);
        disk.describe(0, header, 16, NEXT, 1);
        disk.describe(1, status, 1, WRITE, 0);
        match how {
            "loop" => disk.describe(1, disk.ram + DATA, 512, NEXT, 1),
            "head" => {}
            "address" => disk.describe(0, 0xffff_ffff_ffff_f000, 16, NEXT, 1),
            "order" => {
                disk.describe(0, status, 1, WRITE | NEXT, 1);
                disk.describe(1, header, 16, 0, 0);
            }
            _ => fail(format_args!("do={how} is unknown")),
        }
        disk.send(if how == "head" { SIZE } else { 0 });
        let start = rt::tsc();
        while disk.window.read32(0x70) & NEEDS_RESET == 0 {
            if rt::tsc() - start > 60_000_000_000 {
                fail(format_args!("{how}: the device does not ask for a reset"));
            }
        }
        if disk.used_index() != 0 {
            fail(format_args!("{how}: the bad chain was used"));
        }
    }
    check(disk);
}
