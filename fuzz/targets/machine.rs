//! Random actions on the whole machine but its processors: the real bus,
//! serial port, I/O APIC and devices with their real worker threads, files
//! and (where the host permits one) tap. There is one machine, as making one
//! starts threads; each input begins and ends with its reset, and after that
//! a guest that behaves has to find everything working and nothing left over.
#![no_main]

use std::cell::RefCell;
use std::thread;

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mote::vm::bus::Request;
use mote_fuzz::machine::{
    DATA, DISK, Guest, IOAPIC, Machine, NIC, QUEUE, QUEUES, RAM, SECTORS, WINDOWS,
};
use mote_fuzz::tap;
use vm_memory::{Bytes, GuestAddress};

/// RAM ends below the device hole and goes on behind it.
const EDGES: [u64; 6] = [0, RAM, 3 << 30, 4 << 30, (4 << 30) + (8 << 20), u64::MAX];

/// What a write to ports has to ask for, by the list in the README.
fn asked(port: u16, data: &[u8]) -> Option<Request> {
    let one = |(port, value)| match (port, value) {
        (0x600, value) if value & 0x3c == 0x34 => Some(Request::PowerOff),
        (0x602, 6) | (0x64, 0xfe) => Some(Request::Reset),
        (0x604, 123) => Some(Request::Marker),
        (0x608, 1) => Some(Request::NothingToBoot),
        _ => None,
    };
    let ports = (0..).map(|offset| port.wrapping_add(offset));
    ports.zip(data.iter().copied()).filter_map(one).last()
}

fn ports(u: &mut Unstructured<'_>, machine: &mut Machine) -> Result<bool> {
    let known = [0x3f8, 0x3f9, 0x3fa, 0x3fc, 0x60, 0x64, 0x600, 0x602, 0x604, 0x608, 0xfffe];
    let port = match u.ratio(7, 8)? {
        true => *u.choose(&known)? + u.int_in_range(0..=1)?,
        false => u.arbitrary()?,
    };
    let mut data = [0; 4];
    let width = *u.choose(&[1, 2, 4])?;
    let data = &mut data[..width];
    if u.arbitrary()? {
        machine.bus.port_read(port, data);
        for (offset, byte) in (0..).zip(data) {
            let at = port.wrapping_add(offset);
            let serial = matches!(at, 0x3f8..=0x3ff);
            let zero = matches!(at, 0x64 | 0x600..=0x602);
            assert!(serial || *byte == if zero { 0 } else { 0xff }, "{at:#x}");
        }
        return Ok(true);
    }
    let odd = [0xfe, 0x34, 6, 123, 1];
    for byte in data.iter_mut() {
        *byte = if u.ratio(1, 4)? { *u.choose(&odd)? } else { u.arbitrary()? };
    }
    let request = machine.bus.port_write(port, data);
    assert_eq!(request, asked(port, data));
    Ok(machine.serve(request))
}

/// Somewhere in or near what is there.
fn address(u: &mut Unstructured<'_>) -> Result<u64> {
    let registers = [0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x90, 0xa0];
    let window = WINDOWS + 0x1000 * u.int_in_range(0..=4)?;
    Ok(match u.int_in_range(0..=7)? {
        0..=3 => window + u.choose(&registers)?,
        4 => window + u.int_in_range(0..=0x1000)?,
        5 => IOAPIC + u.choose(&[0, 0x10, 4, 0xffc, 0xffe])?,
        6 => u.choose(&EDGES)?.wrapping_sub(u.int_in_range(0..=8)?),
        _ => u.arbitrary()?,
    })
}

fn value(u: &mut Unstructured<'_>) -> Result<[u8; 8]> {
    let values = [0, 1, 2, 3, 4, 8, 0xb, 0xf, 0x10, 0x11, 0x30, 0x100, 0x1_0000, 0x4000, DATA];
    let value = match u.ratio(3, 4)? {
        true => *u.choose(&values)?,
        false => u.arbitrary()?,
    };
    Ok(value.to_le_bytes())
}

fn memory_access(u: &mut Unstructured<'_>, machine: &mut Machine) -> Result<bool> {
    let (address, bytes) = (address(u)?, value(u)?);
    let width = *u.choose(&[4, 4, 4, 1, 2, 8])?;
    if u.ratio(1, 4)? {
        let mut data = [0; 8];
        machine.bus.mmio_read(address, &mut data[..width]);
        let ioapic = (IOAPIC..IOAPIC + 0x1000).contains(&address) && width >= 4;
        assert!(ioapic || data[..width].iter().all(|byte| *byte == 0xff));
        return Ok(true);
    }
    let request = machine.bus.mmio_write(address, &bytes[..width]).unwrap();
    assert!(matches!(request, None | Some(Request::Routes)));
    Ok(machine.serve(request))
}

/// Two processors at once.
fn storm(u: &mut Unstructured<'_>, machine: &Machine) -> Result<()> {
    let mut lists = [const { Vec::new() }; 2];
    for list in &mut lists {
        for _ in 0..u.int_in_range(1..=12)? {
            list.push((address(u)?, value(u)?));
        }
    }
    let play = |list: &[(u64, [u8; 8])]| {
        for (address, value) in list {
            machine.bus.mmio_write(*address, &value[..4]).unwrap();
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| play(&lists[0]));
        play(&lists[1]);
    });
    Ok(())
}

/// A chain for any device: a header, buffers, perhaps a status; often right.
fn offer(u: &mut Unstructured<'_>, machine: &Machine, guests: &mut [Option<Guest>]) -> Result<()> {
    let device = u.choose_index(guests.len())?;
    let Some(guest) = &mut guests[device] else {
        return Ok(());
    };
    let index = u.choose_index(QUEUES)?;
    let queue = &mut guest.queues[index];
    let at = DATA + 0x400 * u.int_in_range(0..=60)?;
    let mut buffers: Vec<(u64, u32, bool)> = Vec::new();
    if device == NIC {
        let len = u.int_in_range(0..=2000)?;
        buffers.push((at, 12 + len, index == 0));
    } else {
        let kind = *u.choose(&[0u32, 0, 1, 1, 4, 8, 11, 13, 99])?;
        queue.put(at, kind.to_le_bytes());
        queue.put(at + 8, u.int_in_range(0..=SECTORS as u64)?.to_le_bytes());
        buffers.push((at, 16, false));
        for _ in 0..u.int_in_range(0..=2)? {
            let len = 512 * u.int_in_range(0..=3)?;
            buffers.push((at + 0x200, len, matches!(kind, 0 | 8)));
        }
        buffers.push((at + 0x10, 1, true));
    }
    if u.ratio(1, 6)? {
        let broken = u.choose_index(buffers.len())?;
        let edge = u.choose(&EDGES)?.wrapping_sub(u.int_in_range(0..=600)?);
        buffers[broken] = (edge, u.arbitrary::<u32>()? >> u.int_in_range(0..=31)?, u.arbitrary()?);
    }
    let head = match u.ratio(1, 4)? {
        true => queue.build_indirect(at + 0x300, &buffers),
        false => queue.build(&buffers),
    };
    if let Some(head) = head {
        queue.offer(if u.ratio(1, 20)? { u.arbitrary()? } else { head });
    }
    machine.store(device, 0x50, index as u32);
    for _ in 0..u.int_in_range(0..=50)? {
        if !queue.drain().is_empty() {
            break;
        }
        thread::yield_now();
    }
    Ok(())
}

fn spoil(u: &mut Unstructured<'_>, machine: &Machine) -> Result<()> {
    let at = match u.ratio(7, 8)? {
        true => u.int_in_range(0..=RAM)?,
        false => u.choose(&EDGES)?.wrapping_sub(16),
    };
    let len = u.int_in_range(1..=16)?;
    let bytes = u.bytes(len.min(u.len()))?;
    // Where there is no memory, a guest changes none.
    let _ = machine.ram.write_slice(bytes, GuestAddress(at));
    Ok(())
}

fn play(u: &mut Unstructured<'_>, machine: &mut Machine) -> Result<()> {
    let mut guests: Vec<Option<Guest>> = (0..machine.devices).map(|_| None).collect();
    let mut steps = 0;
    while !u.is_empty() && steps < 200 {
        steps += 1;
        match u.int_in_range(0..=31)? {
            0..=5 => {
                if !ports(u, machine)? {
                    return Ok(());
                }
            }
            6..=12 => {
                if !memory_access(u, machine)? {
                    return Ok(());
                }
            }
            13..=16 => {
                let device = u.choose_index(machine.devices)?;
                let mask = if u.arbitrary()? { u64::MAX } else { u.arbitrary()? };
                let features = match device {
                    DISK => 1 << 6 | 1 << 9 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14,
                    NIC => 1 << 15 | 3,
                    _ => 1 << 9,
                };
                let features = (features | 1 << 28 | 1 << 29) & mask | 1 << 32;
                guests[device] = Some(machine.bring_up(device, features, QUEUE));
            }
            17..=25 => offer(u, machine, &mut guests)?,
            26 => spoil(u, machine)?,
            27 => {
                let len = u.int_in_range(1..=100)?;
                u.bytes(len.min(u.len()))?.iter().for_each(|key| machine.typed.push(*key));
                machine.serve_console();
            }
            28 => {
                machine.read_console();
                machine.serve_console();
            }
            29 => {
                let mut frame = vec![0x5a; u.int_in_range(14..=1500)?];
                let start = u.bytes(14.min(u.len()))?;
                frame[..start.len()].copy_from_slice(start);
                if let Some(host) = &machine.host {
                    host.send(&frame);
                    let _ = host.receive(&mut frame);
                }
            }
            30 => storm(u, machine)?,
            _ => {
                machine.reset();
                guests.fill_with(|| None);
            }
        }
    }
    Ok(())
}

thread_local! {
    static MACHINE: RefCell<Machine> = RefCell::new(Machine::new());
}

fn start() {
    if let Err(error) = tap::leave_network() {
        eprintln!("machine: no network of its own: {error}");
    }
}

fuzz_target!(init: start(), |data: &[u8]| {
    MACHINE.with_borrow_mut(|machine| {
        machine.check_memory();
        let _ = play(&mut Unstructured::new(data), machine);
        machine.reset();
        machine.check_memory();
        machine.works(data.len() % machine.devices);
        machine.check();
        machine.reset();
        while machine.read_console() > 0 {
            machine.serve_console();
        }
    });
});
