//! A kernel that asks to be started by the PVH protocol: 32-bit protected mode
//! without paging, `hvm_start_info` in EBX. It says whether that is what
//! happened and powers off.
#![no_std]
#![no_main]

use core::arch::global_asm;

global_asm!(
    // XEN_ELFNOTE_PHYS32_ENTRY (Xen, public/elfnote.h): where to start.
    ".section .note.Xen, \"a\"",
    "    .long 4, 4, 18",
    "    .asciz \"Xen\"",
    "    .long pvh",
    ".section .text.entry, \"ax\"",
    ".globl _start",
    "_start:", // 64-bit: the Linux protocol was used in spite of the note
    "    mov esi, offset wrong_entry",
    "0:  lodsb",
    "    test al, al",
    "    jz 1f",
    "    mov edx, 0x3f8",
    "    out dx, al",
    "    jmp 0b",
    "1:  mov edx, 0x600",
    "    mov al, 0x34",
    "    out dx, al",
    "2:  hlt",
    "    jmp 2b",
    ".code32",
    "pvh:",
    "    mov esi, offset good",
    "    cmp dword ptr [ebx], 0x336ec578",
    "    je 0f",
    "    mov esi, offset no_info",
    "0:  lodsb",
    "    test al, al",
    "    jz 1f",
    "    mov edx, 0x3f8",
    "    out dx, al",
    "    jmp 0b",
    "1:  mov edx, 0x600",
    "    mov al, 0x34",
    "    out dx, al",
    "2:  hlt",
    "    jmp 2b",
    ".code64",
    ".section .rodata.texts, \"a\"",
    "good: .asciz \"PVH ok\\n\"",
    "no_info: .asciz \"FAIL: no hvm_start_info\\n\"",
    "wrong_entry: .asciz \"FAIL: entered by the ELF entry point\\n\"",
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
