//! What `mote demo` has on its CD-ROM: an operating system of one file.
//! Booted from there it introduces the machine, installs itself to the disk
//! (a partition, a FAT file system, a boot configuration and itself, which
//! lies in memory as the initial RAM disk) and resets; booted from the disk it
//! says so and powers off.
#![no_std]
#![no_main]

use rt::blk::{Blk, Failed, SECTOR, Shared};
use rt::{Boot, fail, machine, println};

/// Number of the disk's register window: behind the CD-ROM's.
const DISK: u64 = 1;
/// Ticks of the time-stamp counter: some seconds.
const TIMEOUT: u64 = 20_000_000_000;

/// The partition, in sectors: behind the table; and its parts: boot sector,
/// one file allocation table, root directory.
const PARTITION: u64 = 1;
const TABLE: u64 = PARTITION + 1;
const TABLE_SECTORS: u16 = 17;
const ROOT: u64 = TABLE + TABLE_SECTORS as u64;
const DATA: u64 = ROOT + 1;
/// Clusters, of a sector each: the fewest that make it a FAT16.
const CLUSTERS: u16 = 4085;
const SECTORS: u16 = (DATA - PARTITION) as u16 + CLUSTERS;
/// The most entries of the table that are used: all that fit into a sector.
const MOST: usize = SECTOR / 2;

/// What is installed besides the system itself.
const CONFIG: &[u8] = b"label Installed\n linux /system\n append do=greet\n";

static mut SHARED: Shared = Shared::new();

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    if boot.option("do") == Some("greet") {
        println(format_args!("This is the installed system, run from its disk. Powering off."));
        return;
    }
    println(format_args!("Hello from a virtual machine of your own."));
    let mib = (boot.ram() + (1 << 19)) >> 20;
    println(format_args!(
        "  memory {mib} MiB, vCPUs {}, a CD-ROM, an empty disk",
        boot.cpus().count()
    ));
    // SAFETY: the one reference to it, taken once.
    let shared = unsafe { &mut *(&raw mut SHARED) };
    let system = boot.initrd();
    match Blk::start(DISK, shared, TIMEOUT).and_then(|disk| install(&disk, system)) {
        Ok(()) => println(format_args!("  installed: {} bytes. Restarting.", system.len())),
        Err(Failed) => fail(format_args!("the system cannot be installed")),
    }
    machine::reset(machine::Reset::Acpi);
}

fn install(disk: &Blk, system: &[u8]) -> Result<(), Failed> {
    if system.len().div_ceil(SECTOR) + 3 > MOST {
        return Err(Failed);
    }
    disk.write(0, &partition_table())?;
    disk.write(PARTITION, &boot_sector())?;
    // The configuration is cluster 2, the system what follows.
    let mut root = [0; SECTOR];
    root[..32].copy_from_slice(&file(b"SYSLINUXCFG", 2, CONFIG.len()));
    root[32..64].copy_from_slice(&file(b"SYSTEM     ", 3, system.len()));
    disk.write(TABLE, &table(3 + system.len().div_ceil(SECTOR)))?;
    disk.write(ROOT, &root)?;
    disk.write(DATA, &padded(CONFIG))?;
    let (whole, rest) = system.split_at(system.len() / SECTOR * SECTOR);
    disk.write(DATA + 1, whole)?;
    disk.write(DATA + 1 + (whole.len() / SECTOR) as u64, &padded(rest))?;
    disk.flush()
}

fn padded(bytes: &[u8]) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    sector[..bytes.len()].copy_from_slice(bytes);
    sector
}

/// A master boot record with one active partition of type FAT16 (LBA).
fn partition_table() -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    sector[446] = 0x80;
    sector[450] = 0x0e;
    sector[454..458].copy_from_slice(&(PARTITION as u32).to_le_bytes());
    sector[458..462].copy_from_slice(&u32::from(SECTORS).to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// The BIOS parameter block (Microsoft, FAT specification 1.03).
fn boot_sector() -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\xeb\xfe\x90MOTE    ");
    put(11, &(SECTOR as u16).to_le_bytes());
    // A sector each: cluster, what is reserved; one table; entries of the root.
    put(13, &[1, 1, 0, 1, 16, 0]);
    put(19, &SECTORS.to_le_bytes());
    put(21, &[0xf8]);
    put(22, &TABLE_SECTORS.to_le_bytes());
    put(510, &[0x55, 0xaa]);
    sector
}

/// The table's first sector: the configuration's cluster, and from the next
/// one on up to `end` a chain.
fn table(end: usize) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    for (cluster, entry) in sector.chunks_exact_mut(2).enumerate().take(end) {
        let next = match cluster {
            0 => 0xfff8,
            1 | 2 => 0xffff,
            _ if cluster + 1 == end => 0xffff,
            // Below 256.
            _ => cluster as u16 + 1,
        };
        entry.copy_from_slice(&next.to_le_bytes());
    }
    sector
}

/// A directory entry.
fn file(name: &[u8; 11], cluster: u16, len: usize) -> [u8; 32] {
    let mut entry = [0; 32];
    entry[..11].copy_from_slice(name);
    entry[26..28].copy_from_slice(&cluster.to_le_bytes());
    entry[28..].copy_from_slice(&(len as u32).to_le_bytes());
    entry
}
