//! The machine that the target of this name plays on: everything of it that
//! needs no KVM, as the monitor puts it together.

use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use mote::cli::{self, Command};
use mote::config::{Mode, Policy};
use mote::devices::Devices;
use mote::devices::serial::{Com1, TypedAhead};
use mote::host::console::Output;
use mote::host::memory::{self, GuestRam};
use mote::sandbox::{Confined, Sandbox};
use mote::vm::bus::{Bus, Request};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::driver::Driver;
use crate::tap::{self, Host};

pub const WINDOWS: u64 = 0xd000_0000;
pub const IOAPIC: u64 = 0xfec0_0000;
const PINS: u32 = 16;
pub const SECTORS: usize = 64;
/// Guest memory that inputs use; below it the rings of all queues.
pub const DATA: u64 = 0x2_0000;
pub const RAM: u64 = 0x4_0000;
pub const QUEUE: u16 = 16;
/// In the order of the windows: two disks, a CD, a network interface.
pub const DISK: usize = 0;
const READ_ONLY: usize = 1;
const CD: usize = 2;
pub const NIC: usize = 3;
pub const QUEUES: usize = 2;

pub struct Machine {
    pub bus: Bus,
    pub ram: &'static GuestRam,
    pub devices: usize,
    files: [File; 3],
    /// What was in them at first, and room to look again.
    contents: [Vec<u8>; 3],
    buffer: Vec<u8>,
    pub host: Option<Host>,
    wake: Arc<EventFd>,
    line: EventFd,
    pub typed: TypedAhead,
    reader: UnixStream,
}

/// A driver of one device: its queues.
pub struct Guest {
    pub queues: Vec<Driver<'static>>,
}

fn content(at: usize) -> Vec<u8> {
    (0..SECTORS * 512).map(|i| (i % 251 + at) as u8).collect()
}

impl Machine {
    pub fn new() -> Self {
        let contents = [DISK, READ_ONLY, CD].map(content);
        let files = contents.each_ref().map(|content| {
            let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).unwrap());
            file.write_all_at(content, 0).unwrap();
            file
        });
        let (net, host) = match tap::make() {
            Ok((tap, host)) => (format!("--net tap-fd={}", tap.into_raw_fd()), Some(host)),
            Err(error) => {
                eprintln!("machine: without a network interface: {error}");
                (String::new(), None)
            }
        };
        let path = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        let [disk, read_only, cd] = files.each_ref().map(path);
        let line = format!(
            "run --kernel none --memory 3080M --cpus {QUEUES} --disk {disk},threads=2 \
             --disk {read_only},ro --cdrom {cd} {net}"
        );
        let Ok(Command::Run(config)) = cli::parse(line.split_whitespace().map(Into::into)) else {
            panic!("{line}");
        };
        let ram: &'static GuestRam = Box::leak(Box::new(memory::create(config.memory).unwrap()));
        let devices = Devices::open(&config, ram, None).unwrap();
        let count = devices.windows().mmio().len();
        devices
            .start(
                &Sandbox::new(&Policy { mode: Mode::Off, ..Policy::default() }),
                &Confined::new(),
            )
            .unwrap();
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let (wake, line) = (Arc::new(event()), event());
        let (reader, writer) = UnixStream::pair().unwrap();
        reader.set_nonblocking(true).unwrap();
        let output = Output::to(std::sync::Arc::new(OwnedFd::from(writer)));
        let com1 = Com1::new(line.try_clone().unwrap(), output, Arc::clone(&wake));
        Self {
            bus: Bus::new(com1, devices),
            ram,
            devices: count,
            files,
            contents,
            buffer: vec![0; RAM as usize],
            host,
            wake,
            line,
            typed: TypedAhead::default(),
            reader,
        }
    }

    /// As the monitor resets its machine.
    pub fn reset(&mut self) {
        self.bus.reset();
        memory::power_on(self.ram).unwrap();
        assert_eq!(self.bus.ioapic().routes().count(), 0);
        self.serve_console();
    }

    /// What the main thread does now and then.
    pub fn serve_console(&mut self) {
        let _ = (self.wake.read(), self.line.read());
        let mut com1 = self.bus.com1();
        com1.output().drain();
        self.typed.hand_over(&mut com1);
        assert!(self.typed.is_empty() || com1.room() == 0, "input is stuck");
    }

    pub fn read_console(&self) -> usize {
        std::io::Read::read(&mut &self.reader, &mut [0; 4096]).unwrap_or(0)
    }

    /// Does what a guest asked for; false if it wants the end.
    pub fn serve(&mut self, request: Option<Request>) -> bool {
        match request {
            None => {}
            Some(Request::PowerOff | Request::NothingToBoot) => return false,
            Some(Request::Reset) => self.reset(),
            Some(Request::Marker) => {
                self.bus.note_marker();
            }
            Some(Request::Routes) => {
                let ioapic = self.bus.ioapic();
                let mut last = None;
                for route in ioapic.routes() {
                    assert!(last < Some(route.gsi) && route.gsi < PINS + self.devices as u32);
                    assert_eq!(route.address & 0xfff0_0ffb, 0xfee0_0000);
                    assert!(route.data < 0x800);
                    last = Some(route.gsi);
                }
            }
        }
        true
    }

    pub fn store(&self, device: usize, at: u64, value: u32) -> Option<Request> {
        let address = WINDOWS + 0x1000 * device as u64 + at;
        // Without KVM, which alone can refuse, doorbells keep coming as stores.
        self.bus.mmio_write(address, &value.to_le_bytes()).unwrap()
    }

    /// What a right driver does, from a device's reset on.
    pub fn bring_up(&self, device: usize, features: u64, size: u16) -> Guest {
        for (at, value) in [(0x70, 0), (0x70, 1), (0x70, 3), (0x24, 0)] {
            self.store(device, at, value);
        }
        self.store(device, 0x20, features as u32);
        self.store(device, 0x24, 1);
        self.store(device, 0x20, (features >> 32) as u32);
        self.store(device, 0x70, 0xb);
        let mut queues = Vec::new();
        for queue in 0..QUEUES {
            let base = Driver::SPACE * (QUEUES * device + queue) as u64;
            let driver = Driver::new(self.ram, base, size);
            for (at, value) in [
                (0x30, queue as u64),
                (0x38, u64::from(size)),
                (0x80, driver.descriptors),
                (0x90, driver.available),
                (0xa0, driver.used),
                (0x44, 1),
            ] {
                self.store(device, at, value as u32);
            }
            queues.push(driver);
        }
        self.store(device, 0x70, 0xf);
        Guest { queues }
    }

    /// Waits for the next used buffer; the fuzzer ends what never comes.
    fn wait(driver: &mut Driver<'_>) -> u32 {
        loop {
            match driver.poll() {
                Some((_, len)) => return len,
                None => thread::yield_now(),
            }
        }
    }

    /// A write, a flush and a read on a drive, or a frame each way on the
    /// interface: one device for an input, as each request wakes a worker.
    pub fn works(&mut self, device: usize) {
        if device == NIC {
            return self.network_works();
        }
        let data = [0x77; 512];
        let mut guest = self.bring_up(device, 1 << 32, QUEUE);
        let queue = &mut guest.queues[1];
        let sector = GuestAddress(DATA + 0x100);
        queue.put(DATA, [0; 16]);
        self.ram.write_slice(&data, sector).unwrap();
        for (kind, status) in [(1, u8::from(device != DISK)), (4, 0), (0, 0)] {
            queue.put(DATA, [kind, 0, 0, 0]);
            queue.put(DATA + 0x20, [0xff]);
            let mut buffers = vec![(DATA, 16, false), (DATA + 0x20, 1, true)];
            if kind != 4 {
                buffers.insert(1, (sector.0, 512, kind == 0));
            }
            queue.send(&buffers);
            self.store(device, 0x50, 1);
            Self::wait(queue);
            assert_eq!(queue.get(DATA + 0x20), [status], "{device}: request {kind}");
        }
        let expected = match device {
            DISK => &data,
            _ => &self.contents[device][..512],
        };
        let mut found = [0; 512];
        self.ram.read_slice(&mut found, sector).unwrap();
        assert_eq!(found, expected, "{device}");
    }

    fn network_works(&mut self) {
        const TAG: &[u8] = b"a frame of the end";
        let mut frame = [0xff; 60];
        frame[12..14].copy_from_slice(&0x88b5_u16.to_be_bytes());
        frame[14..14 + TAG.len()].copy_from_slice(TAG);
        let mut guest = self.bring_up(NIC, 1 << 32, QUEUE);
        let host = self.host.as_ref().unwrap();
        // Of earlier inputs; a full socket would lose what comes now.
        let mut buffer = [0; 2048];
        while host.receive(&mut buffer).is_some() {}
        self.ram.write_slice(&[0; 12], GuestAddress(DATA)).unwrap();
        self.ram.write_slice(&frame, GuestAddress(DATA + 12)).unwrap();
        guest.queues[1].send(&[(DATA, 72, false)]);
        self.store(NIC, 0x50, 1);
        Self::wait(&mut guest.queues[1]);
        while host.receive(&mut buffer).is_none_or(|n| buffer[..n] != frame) {
            thread::yield_now();
        }
        // What input left behind on the wire may come first.
        host.send(&frame);
        loop {
            guest.queues[0].send(&[(DATA, 2048, true)]);
            self.store(NIC, 0x50, 0);
            let len = Self::wait(&mut guest.queues[0]) as usize;
            let mut found = vec![0; len];
            self.ram.read_slice(&mut found, GuestAddress(DATA)).unwrap();
            if found.get(12..) == Some(&frame[..]) {
                break;
            }
        }
    }

    /// What has to be true whatever a guest did.
    pub fn check(&mut self) {
        let bytes = &mut self.buffer[..SECTORS * 512];
        for (at, (file, content)) in self.files.iter().zip(&self.contents).enumerate() {
            assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
            assert_eq!(file.read_at(bytes, 0).unwrap(), bytes.len());
            assert!(at == DISK || bytes == content, "image {at} was written");
        }
    }

    /// After a reset nobody writes to memory.
    pub fn check_memory(&mut self) {
        static ZEROES: [u8; RAM as usize] = [0; RAM as usize];
        let start = GuestAddress(0);
        self.ram.read_slice(&mut self.buffer, start).unwrap();
        assert!(self.buffer == ZEROES, "written after a reset");
    }
}
