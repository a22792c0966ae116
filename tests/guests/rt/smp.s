# Start of a further CPU: real mode in the trampoline page, 32-bit protected
# mode, long mode, ring 3.

# The trampoline is copied to the page that the start-up interrupt names. It is
# position-independent: real mode sees it at offset 0 of its code segment.
    .section .rodata.trampoline, "a"
    .globl rt_trampoline, rt_trampoline_end
rt_trampoline:
    .code16
    cli
    .byte 0x2e, 0x66, 0x0f, 0x01, 0x16  # lgdt cs:[1f], 32-bit base
    .word 1f - rt_trampoline
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea                    # jmp 0x08:start32
    .long start32
    .word 0x08
1:  .word 47
    .long rt_gdt
rt_trampoline_end:

    .section .text.smp, "ax"
    .code32
start32:
    mov eax, 0x18
    mov ds, eax
    mov ss, eax
    mov eax, 0x620                      # the same values as the first CPU's
    mov cr4, eax
    mov eax, offset rt_pml4
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, 0x900
    xor edx, edx
    wrmsr
    mov eax, 0x80010033
    mov cr0, eax
    .byte 0xea                          # jmp 0x10:start64
    .long start64
    .word 0x10

    .code64
start64:
    lgdt [rt_gdt_pointer]
    lidt [rt_idt_pointer]
    mov eax, [rt_cpu_task]
    ltr ax
    mov rdi, [rt_cpu_index]
    mov esp, offset rt_cpu_frame
    iretq

# What the next CPU to start loads; written by rt::smp.
    .section .data.smp, "aw"
    .balign 16
    .globl rt_cpu_frame, rt_cpu_stack, rt_cpu_task, rt_cpu_index
rt_cpu_frame:
    .quad rt_cpu_ring3, 0x2b, 0x2
rt_cpu_stack:
    .quad 0, 0x23
rt_cpu_task:
    .quad 0
rt_cpu_index:
    .quad 0
