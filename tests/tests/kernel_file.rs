//! Kernel and initrd files are mapped: shared while they are clean, private
//! when the guest writes, and no trap when somebody cuts them short.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use mote_tests::files::{fnv, noise};
use mote_tests::{Scratch, Vm, guest, have_kvm, kernel, proc, tiny};

/// As large as a distribution's vmlinux.
const SIZE: usize = 44 << 20;
/// Where `kernel::with_payload` puts the payload in guest memory.
const PAYLOAD: u64 = 16 << 20;

/// A large kernel that is the guest `touch`; returns its file, and the hash
/// and length of its payload.
fn large(scratch: &Scratch) -> (PathBuf, u64, usize) {
    let image = kernel::with_payload(&guest("touch"), SIZE).unwrap();
    let small = fs::metadata(guest("touch")).unwrap().len() as usize;
    let start = small.next_multiple_of(4096);
    // The last segment ends in the middle of a page, before the file does.
    let length = (SIZE - start) / 4096 * 4096 - 4096;
    let hash = fnv(&image[start..start + length]);
    let file = scratch.file("kernel", image);
    // Pages not yet on disk would count as dirty.
    File::open(&file).unwrap().sync_all().unwrap();
    (file, hash, length)
}

fn start(kernel: &Path, length: usize) -> Vm {
    let options = format!("start={PAYLOAD} bytes={length}");
    let mut command = mote_tests::mote(["run", "--cmdline", &options, "--kernel"]);
    let vm = Vm::start(command.arg(kernel));
    vm.wait_for("ready");
    vm
}

#[test]
fn a_large_kernel_is_mapped_and_its_clean_pages_are_shared() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let (file, hash, length) = large(&scratch);
    let mut vm = start(&file, length);
    let before = proc::mapped(vm.pid(), &file);
    // What is left over at both ends, up to half of a huge page, is copied.
    let mapped = length as u64 - (2 << 20);
    assert!(before.size * 1024 >= mapped, "{before:?}");
    vm.send("r");
    vm.wait_for(&format!("hash {hash:016x}"));
    let read = proc::mapped(vm.pid(), &file);
    assert!(read.resident * 1024 >= mapped, "{read:?}");
    // Reading makes no copies.
    assert_eq!(read.anonymous + read.private_dirty, 0, "{read:?}");
    // Writing makes copies, which stay in the guest.
    vm.send("wr");
    vm.wait_for_times("hash ", 2);
    let written = proc::mapped(vm.pid(), &file);
    assert!(written.anonymous * 1024 >= mapped, "{written:?}");
    assert_eq!(vm.out.text().matches(&format!("{hash:016x}")).count(), 1);
    // A restart reads the file again.
    vm.send("b");
    vm.wait_for_times("ready", 2);
    vm.send("r");
    vm.wait_for_times(&format!("hash {hash:016x}"), 2);
    vm.send("q");
    vm.end().expect(0);
    let image = kernel::with_payload(&guest("touch"), SIZE).unwrap();
    assert!(fs::read(&file).unwrap() == image, "the guest wrote to the file");
}

#[test]
fn two_vms_with_one_kernel_do_not_see_each_other() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let (file, hash, length) = large(&scratch);
    let (mut one, mut two) = (start(&file, length), start(&file, length));
    one.send("w");
    one.wait_for("written");
    two.send("r");
    two.wait_for(&format!("hash {hash:016x}"));
}

/// What the guest does with a kernel file that was cut short: it ends the VM
/// with a word, and hangs nothing.
fn cut_short(keys: &str, code: i32, words: &[&str]) {
    let scratch = Scratch::new();
    let (file, hash, length) = large(&scratch);
    let mut vm = start(&file, length);
    // Once it was all there, so that it is not for want of something else.
    vm.send("r");
    vm.wait_for(&format!("hash {hash:016x}"));
    let cut = OpenOptions::new().write(true).open(&file).unwrap();
    cut.set_len(4096).unwrap();
    vm.send(keys);
    let end = vm.end();
    end.expect(code).complains(words);
    assert!(!end.out.contains("EXCEPTION"), "{}", end.out);
}

#[test]
fn reading_a_kernel_that_was_cut_short_ends_the_vm() {
    if have_kvm() {
        cut_short("r", 6, &["file", "kernel"]);
    }
}

#[test]
fn executing_a_kernel_that_was_cut_short_ends_the_vm() {
    if have_kvm() {
        cut_short("x", 6, &["file", "kernel"]);
    }
}

#[test]
fn writing_to_a_kernel_that_was_cut_short_ends_the_vm() {
    if have_kvm() {
        cut_short("w", 6, &["file", "kernel"]);
    }
}

#[test]
fn restarting_from_a_kernel_that_was_cut_short_ends_the_vm() {
    if have_kvm() {
        cut_short("b", 3, &["kernel", "truncated"]);
    }
}

/// The program's own pages are copies: what is not touched does not matter.
#[test]
fn a_kernel_that_was_cut_short_does_not_matter_until_it_is_touched() {
    if have_kvm() {
        cut_short_untouched();
    }
}

fn cut_short_untouched() {
    let scratch = Scratch::new();
    let (file, _, length) = large(&scratch);
    let mut vm = start(&file, length);
    let cut = OpenOptions::new().write(true).open(&file).unwrap();
    cut.set_len(0).unwrap();
    vm.send("q");
    vm.end().expect(0);
}

#[test]
fn an_initrd_that_was_cut_short_ends_the_vm() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let bytes = noise(8 << 20);
    let initrd = scratch.file("initrd", &bytes);
    let mut vm = Vm::start(&mut tiny("touch", ["--initrd", initrd.to_str().unwrap()]));
    vm.wait_for("ready");
    vm.send("r");
    vm.wait_for(&format!("hash {:016x}", fnv(&bytes)));
    fs::write(&initrd, "").unwrap();
    vm.send("r");
    vm.end().expect(6).complains(&["file", "initrd"]);
}

/// The file may be replaced as package managers do it: the old one stays.
#[test]
fn a_kernel_that_was_replaced_stays_the_one_it_was() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let (file, hash, length) = large(&scratch);
    let mut vm = start(&file, length);
    let new = scratch.file("new", "not a kernel");
    fs::rename(new, &file).unwrap();
    vm.send("b");
    vm.wait_for_times("ready", 2);
    vm.send("r");
    vm.wait_for(&format!("hash {hash:016x}"));
    vm.send("q");
    vm.end().expect(0);
}
