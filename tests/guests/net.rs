//! Drives a virtio-net device by polling, well-behaved or not, as the command
//! line says. It always ends by sending back what it receives, until a frame
//! of 15 bytes comes: then it powers off.
//!
//! `features=` (hexadecimal), `buffer=` (bytes in a receive buffer), `parts=`
//! (descriptors for each) and `cut=` (descriptors for a sent header) say how. Before that, `do=`
//! `deaf` gives `give=` buffers of `small=` bytes and goes on when a byte comes on the serial
//! port; `registers` reads and writes every register in every width; `setup`
//! starts with queues that cannot be; `rx-…` and `tx-…` build chains that no
//! driver may build; `twice` offers chains twice; `long` sends what is too
//! long; `storm` kicks a broken device a million times; `blast` sends 1000
//! frames and says how long it took; `link` says how the link is; `marked` writes the boot
//! marker when a frame of 17 bytes comes.
#![no_std]
#![no_main]

#[path = "net/driver.rs"]
mod driver;

use driver::*;
use rt::irq::{self, Trigger};
use rt::{Boot, fail, has_byte, machine, port, println, read_byte};

const MARKER: u16 = 0x604;

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    let number = |name: &str, usual: u32| match boot.option(name).map(str::parse) {
        None => usual,
        Some(Ok(number)) => number,
        Some(Err(_)) => fail(format_args!("{name}= is not a number")),
    };
    let features = boot.option("features").unwrap_or("8000");
    let Ok(features) = u64::from_str_radix(features, 16) else {
        fail(format_args!("features= is not a number"))
    };
    let (buffer, cut) = (number("buffer", 2048), number("cut", 1));
    let mut net = Net::new(features, buffer, number("parts", 1) as u16);
    let given = number("give", 0) as u16;
    let todo = boot.option("do").unwrap_or("echo");
    outside(buffer, |page| page.fill(GUARD));
    match todo {
        "echo" | "marked" => {}
        "deaf" => {
            net.start();
            net.strict = false;
            net.supply_some(given, number("small", buffer));
            println(format_args!("deaf"));
            wait_for_byte();
        }
        "registers" => registers(&mut net),
        "setup" => setup(&mut net),
        "twice" => twice(&mut net),
        "long" => long(&mut net),
        "storm" => storm(&mut net),
        "blast" => blast(&mut net, number("count", 1000)),
        "link" => link(&mut net),
        attack => attacks(&mut net, attack),
    }
    // A deaf one goes on as it is.
    if todo == "deaf" {
        net.supply_all(given);
    } else {
        net.start();
        net.supply_all(0);
    }
    println(format_args!("{todo} done"));
    echo(&mut net, cut, todo == "marked");
    outside(buffer, |page| {
        if let Some(at) = page.iter().position(|byte| *byte != GUARD) {
            let at = &raw const page[at];
            fail(format_args!("the device has written to {at:p}, outside all buffers"));
        }
    });
    println(format_args!("{todo} ok"));
}

/// What memory holds that no device was given.
const GUARD: u8 = 0x5c;

/// Calls `each` for memory around the rings and behind what is sent, between receive
/// buffers of so many bytes, and behind them.
fn outside(buffer: u32, each: impl Fn(&mut [u8])) {
    const MIB: u64 = 1 << 20;
    for (from, to) in [(17, 24), (26, 32), (48, 96)] {
        (from * MIB..to * MIB).step_by(4096).for_each(|at| each(bytes(at, 4096)));
    }
    for at in (RECEIVE..48 * MIB).step_by(STRIDE as usize) {
        each(bytes(at + u64::from(buffer), STRIDE as usize - buffer as usize));
    }
}

fn echo(net: &mut Net, cut: u32, marks: bool) {
    loop {
        match net.receive() {
            Some(15) => return,
            Some(17) if marks => port::out8(MARKER, 123),
            Some(0) => {}
            Some(len) => net.send(len, cut),
            None => core::hint::spin_loop(),
        }
    }
}

/// Sleeps until a byte comes on the serial port.
fn wait_for_byte() -> u8 {
    const VECTOR: u8 = 0x40;
    irq::route(machine::COM1_GSI, VECTOR, Trigger::Edge);
    port::out8(machine::COM1 + 4, 0b1011);
    port::out8(machine::COM1 + 1, 1);
    while !has_byte() {
        irq::wait();
    }
    read_byte().unwrap_or(0)
}

/// Accesses every register in every width, on a device that is not running
/// and on one that is; then it must work as if nothing had happened.
fn registers(net: &mut Net) {
    for running in [false, true] {
        if running {
            net.start();
        }
        for offset in 0..0xff8u64 {
            let window = net.window.page();
            let _ = (window.read8(offset), window.read64(offset & !7));
            let _ = (window.read16(offset & !1), window.read32(offset & !3));
            if !(0x70..0x74).contains(&offset) && offset % 8 == 0 {
                window.write8(offset, 0xff);
                window.write16(offset, 0xffff);
                window.write32(offset, 0xffff_ffff);
                window.write64(offset, u64::MAX);
            }
        }
        (0..=255).for_each(|status| net.set_status(status));
    }
}

/// Queues of impossible sizes and at impossible places.
fn setup(net: &mut Net) {
    let good = net.rings[RX].base;
    for (size, base) in [
        (0, good),
        (3, good),
        (512, good),
        (65536, good),
        (u32::MAX, good),
        (256, good + 1),
        (256, 0xd000_0000),
        (256, 0xffff_ffff_ffff_0000),
        (256, u64::MAX),
    ] {
        for bad in [RX, TX] {
            net.negotiate();
            net.give(1 - bad, SIZE.into(), net.rings[1 - bad].base);
            net.give(bad, size, base);
            net.set_status(15);
            net.kick(bad);
            // It may take the rest, but not this queue.
            if net.status() & NEEDS_RESET == 0 && net.has(bad) {
                fail(format_args!("a queue of {size} at {base:#x} is taken"));
            }
        }
    }
}

fn must_break(net: &Net, how: &str) {
    let start = rt::tsc();
    while net.status() & NEEDS_RESET == 0 {
        if rt::tsc() - start > 60_000_000_000 {
            fail(format_args!("{how}: the device does not ask for a reset"));
        }
    }
    if net.rings.iter().any(|ring| ring.used() != 0) {
        fail(format_args!("{how}: a bad chain was used"));
    }
}

/// Chains that no driver may build, one at a time.
fn attacks(net: &mut Net, attack: &str) {
    let (queue, how) = match attack.split_once('-') {
        Some(("rx", how)) => (RX, how),
        Some(("tx", how)) => (TX, how),
        _ => fail(format_args!("do={attack} is unknown")),
    };
    // Indirect descriptors.
    net.wanted |= 1 << 28;
    for _ in 0..5 {
        net.start();
        break_it(net, queue, how);
        must_break(net, attack);
    }
}

fn break_it(net: &mut Net, queue: usize, how: &str) {
    let write = if queue == RX { WRITE } else { 0 };
    let (at, beyond) = (SEND, 0xffff_ffff_ffff_f000);
    let ring = &mut net.rings[queue];
    let table = ring.base + TABLE;
    let (mut head, mut more) = (0, 0);
    ring.describe(0, at, 2048, write | NEXT, 1);
    ring.describe(1, at, 2048, write, 0);
    match how {
        "loop" => ring.describe(1, at, 2048, write | NEXT, 0),
        "self" => ring.describe(0, at, 2048, write | NEXT, 0),
        "head" => head = SIZE,
        "next" => ring.describe(0, at, 2048, write | NEXT, SIZE),
        "zero" => ring.describe(1, at, 0, write, 0),
        "address" => ring.describe(1, beyond, 2048, write, 0),
        "hole" => ring.describe(1, 0xd000_0000, 2048, write, 0),
        "end" => ring.describe(1, u64::MAX, 2048, write, 0),
        "order" => {
            ring.describe(0, at, 64, WRITE | NEXT, 1);
            ring.describe(1, at, 64, 0, 0);
        }
        "ahead" => more = SIZE,
        "nested" => {
            ring.describe(0, table, 32, INDIRECT, 0);
            describe(table, at, 2048, write | NEXT, 1);
            describe(table + 16, table, 16, INDIRECT, 0);
        }
        "odd" => ring.describe(0, table, 24, INDIRECT, 0),
        "empty" => ring.describe(0, table, 0, INDIRECT, 0),
        "large" => ring.describe(0, table, 16 * (u32::from(SIZE) + 1), INDIRECT, 0),
        "both" => ring.describe(0, table, 32, INDIRECT | NEXT, 1),
        "far" => ring.describe(0, beyond, 32, INDIRECT, 0),
        _ => fail(format_args!("{how} is unknown")),
    }
    ring.offer(head);
    ring.show(more);
    net.kick(queue);
}

/// One chain offered twice. To send, it is there again once it was used; to
/// receive, it would be filled twice at the same time.
fn twice(net: &mut Net) {
    net.start();
    bytes(SEND, 76).fill(0);
    for queue in [TX, RX] {
        let (at, flags) = if queue == RX { (RECEIVE, WRITE) } else { (SEND, 0) };
        let ring = &mut net.rings[queue];
        ring.describe(0, at, 76, flags, 0);
        (0..2).for_each(|_| ring.offer(0));
        ring.show(0);
        net.kick(queue);
        if queue == TX {
            (0..2).for_each(|_| net.wait_sent());
            println(format_args!("twice sent"));
            net.start();
        }
    }
    must_break(net, "twice");
}

/// Chains of 16 MiB, as many as fit: none is sent, and none delays the rest.
fn long(net: &mut Net) {
    net.wanted |= 1 << 28;
    net.start();
    let ring = &mut net.rings[TX];
    let table = ring.base + TABLE;
    for index in 0..SIZE {
        let flags = if index + 1 < SIZE { NEXT } else { 0 };
        describe(table + 16 * u64::from(index), SEND, 0x1_0000, flags, index + 1);
        ring.describe(index, table, 16 * u32::from(SIZE), INDIRECT, 0);
    }
    (0..SIZE).for_each(|head| ring.offer(head));
    ring.show(0);
    net.kick(TX);
    (0..SIZE).for_each(|_| net.wait_sent());
}

/// Rings the doorbells of a broken device, and breaks it anew.
fn storm(net: &mut Net) {
    for round in 0..100 {
        net.start();
        break_it(net, round % 2, "loop");
        must_break(net, "storm");
        for _ in 0..5_000 {
            net.kick(RX);
            net.kick(TX);
        }
    }
    println(format_args!("stormed"));
    wait_for_byte();
}

/// Sends frames as fast as the device takes them, and sleeps meanwhile.
fn blast(net: &mut Net, count: u32) {
    const VECTOR: u8 = 0x41;
    net.start();
    net.window.route(machine::FIRST_DEVICE_GSI, VECTOR, 2);
    bytes(SEND, 76).fill(0);
    let frame = bytes(SEND + 12, 14);
    frame.copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
    let start = rt::tsc();
    let (mut sent, mut done) = (0, 0);
    while done < count {
        while sent < count && sent - done < SIZE.into() {
            let ring = &mut net.rings[TX];
            let head = (sent % u32::from(SIZE)) as u16;
            ring.describe(head, SEND, 76, 0, 0);
            ring.offer(head);
            sent += 1;
        }
        net.rings[TX].show(0);
        net.kick(TX);
        let before = done;
        while net.rings[TX].take().is_some() {
            done += 1;
        }
        if done == before {
            irq::wait();
        }
    }
    println(format_args!("blast took {}", rt::tsc() - start));
}

/// Says how the link is whenever that changes, until a byte other than `s`,
/// which has it send a frame, comes on the serial port.
fn link(net: &mut Net) {
    net.start();
    net.supply_all(0);
    let mut shown = None;
    loop {
        let up = net.link_is_up();
        if shown.replace(up) != Some(up) {
            println(format_args!("link {}", if up { "up" } else { "down" }));
        }
        match read_byte() {
            Some(b's') => {
                bytes(SEND + 12, 64).fill(0);
                net.send(64, 1);
                println(format_args!("sent"));
            }
            Some(_) => return,
            None => {}
        }
    }
}
