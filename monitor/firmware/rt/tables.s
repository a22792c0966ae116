# Descriptor and page tables of the runtime, complete at link time: the entry
# stub only has to load their addresses. On a PVM host every instruction in
# ring 0 costs most of a microsecond, so nothing is computed there.
#
# The layout is fixed, because descriptors split an address into pieces that a
# linker cannot fill in: TEXT, RODATA, DATA, GUARD (the page under the first
# CPU's stack) and STACK_END, here or in layout_*.s, and in the linker script.

    .set TSS_SIZE, 128                  # 104 bytes used
    .set RING0_STACK, 512               # only interrupt frames live there

# ---- Global descriptor table and one task state segment per CPU ------------
# In writable memory: loading a task register sets the descriptor's busy bit.
    .section .data.cpu, "aw"
    .balign 4096
    .globl rt_gdt
rt_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            # 0x08 ring 0 code, 32 bits (start of other CPUs)
    .quad 0x00af9b000000ffff            # 0x10 ring 0 code, 64 bits
    .quad 0x00cf93000000ffff            # 0x18 ring 0 data
    .quad 0x00cff3000000ffff            # 0x20 ring 3 data
    .quad 0x00affb000000ffff            # 0x28 ring 3 code, 64 bits
    .set tss, DATA + 0x400
    .rept CPUS                          # 0x30 + 16 * CPU
    .quad 0x0000890000000067 | (tss << 16)
    .quad 0
    .set tss, tss + TSS_SIZE
    .endr
rt_gdt_end:
    .fill 0x400 - (rt_gdt_end - rt_gdt), 1, 0
    .set cpu, 1                         # DATA + 0x400
    .rept CPUS
    .long 0
    .quad rt_ring0_stacks + cpu * RING0_STACK
    .fill TSS_SIZE - 12, 1, 0
    .set cpu, cpu + 1
    .endr

    .section .rodata.idt, "a"
    .balign 16
rt_idt:
    .set handler, TEXT                  # rt_vectors, 16 bytes each
    .rept 256
    .quad 0x00008e0000100000 | (handler & 0xffff) | ((handler >> 16) << 48)
    .quad 0
    .set handler, handler + 16
    .endr

    .balign 8
    .globl rt_gdt_pointer, rt_idt_pointer, rt_no_idt
    .word 0, 0, 0
rt_gdt_pointer:
    .word rt_gdt_end - rt_gdt - 1
    .quad rt_gdt
    .word 0, 0, 0
rt_idt_pointer:
    .word 256 * 16 - 1
    .quad rt_idt
rt_no_idt:
    .word 0
    .quad 0

# ---- Page tables: 0 to 4 GiB one to one, usable from ring 3 ----------------
# Accessed and dirty bits are set beforehand, so that no walk has to set them.
    .set TABLE, 0x67                    # present, writable, user
    .set READ, 0x25                     # present, user
    .set WRITE, 0x67
    .set LARGE, 0xe7                    # a writable 2 MiB page
    .set DEVICE, 0xff                   # the same, uncached
    .set NX, 1 << 63

    .section .data.tables, "aw"
    .balign 4096
    .globl rt_pml4, rt_pdpt
rt_pml4:
    .quad rt_pdpt + TABLE
    .fill 511, 8, 0
rt_pdpt:
    .quad rt_pd0 + TABLE
    .quad rt_pd1 + TABLE
    .quad rt_pd1 + 0x1000 + TABLE
    .quad rt_pd3 + TABLE
    .fill 508, 8, 0
rt_pd0:
    .quad rt_pt0 + TABLE
    .if TEXT < 0x200000
    .quad 0x200000 | LARGE | NX
    .else
    .quad rt_pt0 + 0x1000 + TABLE
    .endif
    .set address, 0x400000
    .rept 510
    .quad address | LARGE | NX
    .set address, address + 0x200000
    .endr
rt_pd1:                                 # 1 to 3 GiB
    .rept 1024
    .quad address | LARGE | NX
    .set address, address + 0x200000
    .endr
rt_pd3:                                 # 3 to 4 GiB: devices
    .rept 512
    .quad address | DEVICE | NX
    .set address, address + 0x200000
    .endr
rt_pt0:                                 # up to the program; page 0 catches null
    .quad 0
    .set address, 0x1000
    .rept (TEXT - 0x1000) / 0x1000
    .quad address | WRITE | NX
    .set address, address + 0x1000
    .endr
    .rept (RODATA - TEXT) / 0x1000
    .quad address | READ
    .set address, address + 0x1000
    .endr
    .rept (DATA - RODATA) / 0x1000
    .quad address | READ | NX
    .set address, address + 0x1000
    .endr
    .rept (GUARD - DATA) / 0x1000
    .quad address | WRITE | NX
    .set address, address + 0x1000
    .endr
    .quad 0
    .set address, address + 0x1000
    .rept (STACK_END - GUARD - 0x1000) / 0x1000
    .quad address | WRITE | NX
    .set address, address + 0x1000
    .endr
    .rept CPUS - 1                      # of every other CPU: guard, 8 KiB stack
    .quad 0
    .set address, address + 0x1000
    .quad address | WRITE | NX
    .set address, address + 0x1000
    .quad address | WRITE | NX
    .set address, address + 0x1000
    .endr
    .rept (0x200000 - (address & 0x1fffff)) / 0x1000 % 512
    .quad address | WRITE | NX
    .set address, address + 0x1000
    .endr

# ---- Stacks of ring 0 and of the exception report --------------------------
    .section .bss.stacks, "aw", @nobits
    .balign 16
rt_ring0_stacks:
    .skip CPUS * RING0_STACK
    .globl rt_ring0_stack_top
rt_ring0_stack_top:
    .skip 8192
    .globl rt_report_stack_top
rt_report_stack_top:
