//! What is saved, field by field. `FORMAT.md` describes the same; the golden
//! file in the tests holds both to it.

use mote_virtio::rate::LevelV1;
use mote_virtio::transport::{PciV1, QueueRegistersV1, RegistersV1, VECTORS};
use mote_virtio::{EndpointStateV1, MAX_QUEUE_SIZE, QueueConfig, QueueState};

use crate::{Error, Io};

/// Bytes of a page, which ranges of memory are multiples of.
pub const PAGE: usize = 4096;

/// Most vCPUs.
pub const MAX_CPUS: usize = 32;
/// Most virtio devices.
pub const MAX_DEVICES: usize = 16;
const MAX_RANGES: usize = 2;
/// Where guest memory ends at the latest, in bytes.
const MAX_ADDRESS: u64 = 1 << 42;
const MAX_TEXT: usize = 64;
/// Most bytes of a device's name: more than one line of Firecracker's API holds.
pub const MAX_ID: usize = 1024;
/// Most bytes that were typed ahead.
pub const MAX_TYPED: usize = 64 << 10;
const MAX_QUEUES: usize = 256;
/// Most leaves of CPUID and most MSRs that KVM takes in one call.
const MAX_ENTRIES: usize = 256;
/// Most bytes of XSAVE state: AMX makes it 11 KiB.
const MAX_XSAVE: usize = 64 << 10;

/// Everything but the memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateV1 {
    /// Name and version of the program that wrote it.
    pub written_by: String,
    /// The processor that it was made on.
    pub cpu: CpuV1,
    /// The memory file.
    pub memory: MemoryV1,
    /// What the VM as a whole has.
    pub vm: VmV1,
    /// COM1.
    pub serial: SerialV1,
    /// By number.
    pub vcpus: Vec<VcpuV1>,
    /// virtio devices, in the order of their windows.
    pub devices: Vec<DeviceV1>,
}

impl StateV1 {
    /// Writes or reads it; so do all functions of this name.
    pub(crate) fn fields(&mut self, io: &mut Io) -> Result<(), Error> {
        let Self { written_by, cpu, memory, vm, serial, vcpus, devices } = self;
        io.text(written_by, MAX_TEXT)?;
        cpu.fields(io)?;
        memory.fields(io)?;
        vm.fields(io)?;
        serial.fields(io)?;
        io.list(vcpus, MAX_CPUS, VcpuV1::fields)?;
        if vcpus.is_empty() {
            return Err(Error::Field("number of vCPUs"));
        }
        io.list(devices, MAX_DEVICES, DeviceV1::fields)
    }
}

/// A processor's identity: on another one the state may mean something else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuV1 {
    /// CPUID leaf 0: EBX, EDX, ECX.
    pub vendor: [u8; 12],
    /// CPUID leaf 1, EAX: family, model, stepping.
    pub signature: u32,
    /// Leaf 1 ECX and EDX, leaf 7 EBX, ECX and EDX.
    pub features: [u32; 5],
}

impl CpuV1 {
    fn fields(&mut self, io: &mut Io) -> Result<(), Error> {
        let Self { vendor, signature, features } = self;
        io.bytes(vendor)?;
        io.u32(signature)?;
        features.iter_mut().try_for_each(|word| io.u32(word))
    }
}

/// What the memory file is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryV1 {
    /// In its last page, too: the two files belong together.
    pub id: [u8; 16],
    /// SHA-256 over offset (eight bytes) and content of each page that is not
    /// zero, in rising order.
    pub sum: [u8; 32],
    /// If only what has changed is there: the identity of the snapshot that it
    /// has changed since.
    pub base: Option<[u8; 16]>,
    /// Guest address and length of each range; in the file they lie end to end.
    pub ranges: Vec<(u64, u64)>,
}

impl MemoryV1 {
    fn fields(&mut self, io: &mut Io) -> Result<(), Error> {
        let Self { id, sum, base, ranges } = self;
        io.bytes(id)?;
        io.bytes(sum)?;
        io.option(base, |id, io| io.bytes(id))?;
        io.list(ranges, MAX_RANGES, |(start, length), io| {
            io.u64(start)?;
            io.u64(length)
        })?;
        let mut end = 0;
        for (start, length) in ranges.iter() {
            let page = PAGE as u64;
            let whole = start.is_multiple_of(page) && length.is_multiple_of(page) && *length > 0;
            let next = start.checked_add(*length).filter(|next| *next <= MAX_ADDRESS);
            end = next.filter(|_| whole && *start >= end).ok_or(Error::Field("range of memory"))?;
        }
        (end > 0).then_some(()).ok_or(Error::Field("memory"))
    }

    /// Bytes of guest memory.
    #[must_use]
    pub fn length(&self) -> u64 {
        // At most two ranges, each below 2^42.
        self.ranges.iter().map(|(_, length)| length).sum()
    }
}

/// Clock, I/O APIC and clock chip.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmV1 {
    /// Nanoseconds of the guest's clock (`KVM_GET_CLOCK`).
    pub clock: u64,
    /// The I/O APIC.
    pub ioapic: IoApicV1,
    /// The selected register of the clock chip (MC146818).
    pub rtc_select: u8,
}

/// Registers of the I/O APIC (Intel 82093AA).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoApicV1 {
    /// IOREGSEL.
    pub select: u8,
    /// IOAPICID, bits 24 to 27.
    pub id: u8,
    /// IOREDTBL.
    pub entries: Vec<u64>,
}

impl VmV1 {
    fn fields(&mut self, io: &mut Io) -> Result<(), Error> {
        let Self { clock, ioapic: IoApicV1 { select, id, entries }, rtc_select } = self;
        io.u64(clock)?;
        io.u8(select)?;
        io.u8(id)?;
        io.list(entries, MAX_TEXT, |entry, io| io.u64(entry))?;
        io.u8(rtc_select)
    }
}

/// Registers of the serial port (16550A).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SerialV1 {
    /// Divisor latch low and high, interrupt enable, interrupt identification,
    /// line control, line status, modem control, modem status, scratch.
    pub registers: [u8; 9],
    /// Received and not read.
    pub input: Vec<u8>,
    /// Typed when there was no room for it.
    pub typed: Vec<u8>,
}

impl SerialV1 {
    fn fields(&mut self, io: &mut Io) -> Result<(), Error> {
        let Self { registers, input, typed } = self;
        io.bytes(registers)?;
        io.blob(input, MAX_TEXT)?;
        io.blob(typed, MAX_TYPED)
    }
}

/// A vCPU. Structures of Linux's KVM interface are kept as they are there: it
/// is little-endian, has no holes of unknown content, and never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuV1 {
    /// Its leaves of CPUID.
    pub cpuid: Vec<CpuidV1>,
    /// Frequency of its time stamp counter in kHz.
    pub tsc_khz: u32,
    /// `kvm_mp_state`.
    pub mp_state: u32,
    /// `kvm_regs`.
    pub regs: [u8; 144],
    /// `kvm_sregs`.
    pub sregs: [u8; 312],
    /// `kvm_vcpu_events`.
    pub events: [u8; 64],
    /// `kvm_debugregs`.
    pub debug: [u8; 128],
    /// `kvm_lapic_state`.
    pub lapic: [u8; 1024],
    /// Extended control registers: number and value.
    pub xcrs: Vec<(u32, u64)>,
    /// Number and value of each.
    pub msrs: Vec<(u32, u64)>,
    /// `kvm_xsave`.
    pub xsave: Vec<u8>,
}

impl Default for VcpuV1 {
    fn default() -> Self {
        Self {
            cpuid: Vec::new(),
            tsc_khz: 0,
            mp_state: 0,
            regs: [0; 144],
            sregs: [0; 312],
            events: [0; 64],
            debug: [0; 128],
            lapic: [0; 1024],
            xcrs: Vec::new(),
            msrs: Vec::new(),
            xsave: Vec::new(),
        }
    }
}

/// A leaf of CPUID: function, index, flags (as KVM counts them), EAX, EBX, ECX,
/// EDX.
pub type CpuidV1 = [u32; 7];

impl VcpuV1 {
    fn fields(&mut self, io: &mut Io) -> Result<(), Error> {
        let Self { cpuid, tsc_khz, mp_state, regs, sregs, events, debug, lapic, xcrs, msrs, xsave } =
            self;
        io.list(cpuid, MAX_ENTRIES, |leaf, io| leaf.iter_mut().try_for_each(|word| io.u32(word)))?;
        io.u32(tsc_khz)?;
        io.u32(mp_state)?;
        io.bytes(regs)?;
        io.bytes(sregs)?;
        io.bytes(events)?;
        io.bytes(debug)?;
        io.bytes(lapic)?;
        io.list(xcrs, 16, register)?;
        io.list(msrs, MAX_ENTRIES, register)?;
        io.blob(xsave, MAX_XSAVE)
    }
}

fn register((number, value): &mut (u32, u64), io: &mut Io) -> Result<(), Error> {
    io.u32(number)?;
    io.u64(value)
}

/// A virtio device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceV1 {
    /// Its type (virtio 1.2, 5).
    pub kind: u32,
    /// Its name, by which its backend is given again.
    pub id: String,
    /// Nothing can be written to it.
    pub read_only: bool,
    /// Registers, configuration space, queues.
    pub endpoint: EndpointStateV1,
    /// What is in the buckets of its rate limits, bytes before operations: of a
    /// drive, or of what an interface receives and of what it sends.
    pub limits: Vec<Option<LevelV1>>,
}

impl DeviceV1 {
    fn fields(&mut self, io: &mut Io) -> Result<(), Error> {
        let Self {
            kind,
            id,
            read_only,
            endpoint: EndpointStateV1 { registers, config, queues, writeback, pci },
            limits,
        } = self;
        io.u32(kind)?;
        io.text(id, MAX_ID)?;
        io.bool(read_only)?;
        register_fields(registers, io)?;
        io.blob(config, 256)?;
        io.list(queues, MAX_QUEUES, |queue, io| {
            io.option(queue, |QueueState { next_available, next_used, in_flight }, io| {
                io.u16(next_available)?;
                io.u16(next_used)?;
                io.list(in_flight, MAX_QUEUE_SIZE.into(), |head, io| io.u16(head))
            })
        })?;
        io.bool(writeback)?;
        io.list(limits, 4, |level, io| {
            io.option(level, |LevelV1 { burst, tokens, debt }, io| {
                [burst, tokens, debt].into_iter().try_for_each(|value| io.u64(value))
            })
        })?;
        io.option(pci, |PciV1 { space, table, config_vector, queue_vectors }, io| {
            io.blob(space, 256)?;
            io.list(table, 4 * VECTORS, |word, io| io.u32(word))?;
            io.u16(config_vector)?;
            io.list(queue_vectors, MAX_QUEUES, |vector, io| io.u16(vector))
        })
    }
}

fn register_fields(registers: &mut RegistersV1, io: &mut Io) -> Result<(), Error> {
    let RegistersV1 {
        status,
        driver_features,
        device_features_select,
        driver_features_select,
        queue_select,
        interrupt_status,
        config_generation,
        queues,
    } = registers;
    io.u8(status)?;
    io.u64(driver_features)?;
    io.u32(device_features_select)?;
    io.u32(driver_features_select)?;
    io.u32(queue_select)?;
    io.u32(interrupt_status)?;
    io.u32(config_generation)?;
    io.list(queues, MAX_QUEUES, |queue, io| {
        let QueueRegistersV1 { config: QueueConfig { size, descriptors, available, used }, ready } =
            queue;
        io.u32(size)?;
        io.u64(descriptors)?;
        io.u64(available)?;
        io.u64(used)?;
        io.bool(ready)
    })
}
