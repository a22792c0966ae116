//! Rate limits of drives, and host disks that are full.

use std::ffi::CString;
use std::fs;

use mote_tests::{Scratch, Vm, have_kvm, proc, run, tiny};

/// What a guest says that 120 reads took, and the worker's ticks for them.
fn pace(limit: &str) -> (f64, u64) {
    let scratch = Scratch::new();
    let image = scratch.file("disk", vec![0; 1 << 20]);
    let disk = format!("{},id=paced{limit}", image.display());
    let mut vm = Vm::start(&mut tiny("disk", ["--disk", &disk, "--cmdline", "do=pace"]));
    let mut ticks = 0;
    while !vm.has_ended() {
        ticks = proc::thread_ticks(vm.pid(), "paced").max(ticks);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let end = vm.end();
    end.expect(0);
    let cycles = end.out.lines().find_map(|line| line.strip_prefix("pace took "));
    (cycles.unwrap().parse().unwrap(), ticks)
}

/// A limit holds, twice the limit is faster, and waiting costs no time. The
/// first bucketful is free: 80 of 120 requests wait at 40 a second, 40 at 80.
#[test]
fn a_drive_keeps_its_limit() {
    if !have_kvm() {
        return;
    }
    let (free, _) = pace("");
    for (slow, fast) in [(",ops=40", ",ops=80"), (",bw=160K", ",bw=320K")] {
        let (slow, ticks) = pace(slow);
        let (fast, _) = pace(fast);
        assert!(slow > 2.0 * fast, "{slow} cycles, {fast} at twice the limit");
        assert!(fast > 2.0 * free, "{fast} cycles, {free} without a limit");
        // Two seconds are two hundred ticks.
        assert!(ticks < 60, "{ticks} ticks of 200");
    }
}

/// A small file system of its own for as long as the directory is there.
struct Small(Scratch);

impl Small {
    /// None if that is not permitted.
    fn new(size: &str) -> Option<Self> {
        let this = Self(Scratch::new());
        let text = |text: &str| CString::new(text).unwrap();
        let (kind, options) = (text("tmpfs"), text(&format!("size={size}")));
        let target = text(this.0.to_str().unwrap());
        // SAFETY: C strings.
        let done = unsafe {
            let data = options.as_ptr().cast();
            libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, data)
        };
        if done != 0 {
            mote_tests::vm::skip("only root can mount a file system");
            return None;
        }
        Some(this)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let target = CString::new(self.0.to_str().unwrap()).unwrap();
        // SAFETY: a C string.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

/// With `--on-enospc error` the guest is told; what it wrote before is there.
#[test]
fn a_full_host_disk_can_be_an_error() {
    if !have_kvm() {
        return;
    }
    let Some(small) = Small::new("512K") else {
        return;
    };
    let image = small.0.join("disk");
    let disk = format!("{},size=1M,create", image.display());
    let flags = ["--disk", &disk, "--cmdline", "do=fill", "--on-enospc", "error"];
    let end = run(&mut tiny("disk", flags));
    end.expect(0);
    assert!(end.out.contains("error at Some("), "{}", end.out);
    assert!(end.out.contains("fill ok"), "{}", end.out);
    assert_eq!(fs::read(&image).unwrap()[..4096], [0x77; 4096]);
}

/// Usually it waits, says so once, and goes on when there is room.
#[test]
fn a_full_host_disk_holds_the_guest_up() {
    if !have_kvm() {
        return;
    }
    let Some(small) = Small::new("1536K") else {
        return;
    };
    // 1 MiB for the image, 512 KiB for this, and the guest needs all of it.
    let image = small.0.join("disk");
    let ballast = small.0.file("ballast", vec![1; 1 << 20]);
    let disk = format!("{},size=1M,create", image.display());
    let vm = Vm::start(&mut tiny("disk", ["--disk", &disk, "--cmdline", "do=fill"]));
    let told = "the host has no room left";
    mote_tests::wait_until("the guest waits", || vm.err.text().contains(told));
    fs::remove_file(ballast).unwrap();
    let end = vm.end();
    end.expect(0);
    assert!(end.out.contains("error at None"), "{}", end.out);
    assert_eq!(end.err.matches(told).count(), 1, "{}", end.err);
    assert!(fs::read(image).unwrap().iter().all(|byte| *byte == 0x77));
}
