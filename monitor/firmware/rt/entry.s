# Ring 0: entry, interrupt vectors and the services behind the gate. The rest
# of a guest runs in ring 3.

# ---- Vectors: 16 bytes each, at the very start of the image ----------------
    .section .text.vectors, "ax"
    .globl rt_vectors
rt_vectors:
    .set vector, 0
    .rept 256
    .balign 16, 0xcc
    .if vector == 6
    jmp invalid_opcode
    .elseif vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21
    push vector
    jmp exception
    .elseif vector < 32
    push 0
    push vector
    jmp exception
    .else
    .byte 0x68                          # push imm32: an imm8 would be signed
    .long vector
    jmp interrupt
    .endif
    .set vector, vector + 1
    .endr

# ---- Entry (Linux 64-bit boot protocol): rsi is the address of boot_params --
    .section .text.entry, "ax"
    .globl _start
_start:
    .if MARKER
    mov edx, 0x604                      # boot marker: the first instructions
    mov al, 123
    out dx, al
    .endif
    lgdt [rt_gdt_pointer]
    lidt [rt_idt_pointer]
    mov ecx, 0xc0000080                 # EFER: long mode, no-execute pages
    mov eax, 0xd00
    xor edx, edx
    wrmsr
    mov eax, offset rt_pml4
    mov cr3, rax
    mov eax, 0x620                      # CR4: PAE, SSE state, SSE exceptions
    mov cr4, rax
    mov eax, 0x80010033                 # CR0: paging, write protect, NE, MP, PE
    mov cr0, rax
    mov eax, 0x30
    ltr ax
    mov rdi, rsi
    mov esp, offset first_frame
    iretq

    .section .data.frames, "aw"
    .balign 16
first_frame:
    .quad rt_ring3, 0x2b, 0x2, STACK_END - 8, 0x23
report_frame:
    .quad rt_report, 0x2b, 0x2, rt_report_stack_top - 8, 0x23
reports:
    .long 0

# ---- The gate: `call rt_gate` with a service number in eax ------------------
# `ud2` reaches ring 0 on every KVM; `int n` and `syscall` do not on PVM.
    .section .text.gate, "ax"
    .globl rt_gate
rt_gate:
    ud2
    ret

invalid_opcode:
    cmp qword ptr [rsp], offset rt_gate
    jne 1f
    add qword ptr [rsp], 2
    jmp [services + rax * 8]
1:  push 0
    push 6
    jmp exception

    .section .rodata.services, "a"
    .balign 8
services:                               # numbers: enum Service in gate.rs
    .quad out8, out16, out32, in8, in16, in32, outs
    .quad wait, interrupts_on, interrupts_off, halt, triple
    .quad read_msr, write_msr, flush, scan, fill, enter, enter_pvh

    .section .text.services, "ax"
out8:                                   # port edx, value ecx
    mov eax, ecx
    out dx, al
    iretq
out16:
    mov eax, ecx
    out dx, ax
    iretq
out32:
    mov eax, ecx
    out dx, eax
    iretq
in8:                                    # port edx → eax
    xor eax, eax
    in al, dx
    iretq
in16:
    xor eax, eax
    in ax, dx
    iretq
in32:
    in eax, dx
    iretq
outs:                                   # port edx, rcx bytes from rsi
    rep outsb
    iretq
scan:                                   # rcx ports from edx → bytes at rdi
    in al, dx
    stosb
    inc edx
    loop scan
    iretq
fill:                                   # byte edi → rcx ports from edx
    mov eax, edi
1:  out dx, al
    inc edx
    loop 1b
    iretq
wait:                                   # until an interrupt was handled
    sti
    hlt
    cli
    iretq
interrupts_on:
    or qword ptr [rsp + 16], 0x200
    iretq
interrupts_off:
    and qword ptr [rsp + 16], -0x201
    iretq
halt:
    cli
    hlt
    jmp halt
triple:
    lidt [rt_no_idt]
    ud2
read_msr:                               # MSR ecx → edx:eax, esi = 1 if refused
    xor esi, esi
read_msr_at:
    rdmsr
    iretq
write_msr:                              # MSR ecx, value edx:edi → esi
    mov eax, edi
    xor esi, esi
write_msr_at:
    wrmsr
    iretq
flush:                                  # forget cached translations
    mov rax, cr3
    mov cr3, rax
    iretq

# To a kernel at rdi, with the address of its boot parameters in rsi, and all
# else as the monitor left it for the program itself: its page tables, which
# are executable and not for ring 3, its GDT, its stack.
enter:
    mov eax, 0x9000
    mov cr3, rax
    mov eax, 0x20                       # CR4: PAE
    mov cr4, rax
    mov eax, 0x80000011                 # CR0: paging, ET, PE
    mov cr0, rax
    mov ecx, 0xc0000080                 # EFER: long mode
    mov eax, 0x500
    xor edx, edx
    wrmsr
    lgdt [monitors_gdt]
    lidt [rt_no_idt]
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov esp, 0x8ff0
    push 0x10
    push rdi
    mov ebp, 0x8ff0
    xor eax, eax
    xor ecx, ecx
    xor ebx, ebx
    xor edi, edi
    retfq

# To a kernel at edi in 32-bit protected mode without paging, with the address
# of its start information in esi.
enter_pvh:
    mov eax, 0x9000
    mov cr3, rax
    movabs rax, 0x00cf9b000000ffff      # the monitor's code segment, 32 bits
    mov [0x510], rax
    lgdt [monitors_gdt]
    lidt [rt_no_idt]
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov esp, 0x8ff0
    push 0x10
    lea rax, [rip + 1f]
    push rax
    retfq
    .code32
1:  mov eax, 0x11                       # CR0: ET, PE
    mov cr0, eax
    mov ecx, 0xc0000080                 # EFER
    xor eax, eax
    xor edx, edx
    wrmsr
    mov cr4, eax
    mov ebx, esi
    xor esi, esi
    xor ecx, ecx
    xor ebp, ebp
    jmp edi
    .code64

    .section .rodata.monitors_gdt, "a"
    .balign 8
    .word 0, 0, 0
monitors_gdt:
    .word 39
    .quad 0x500
    .section .text.services, "ax"

# ---- Interrupts: count the vector, acknowledge, return ----------------------
interrupt:
    push rax
    mov eax, [rsp + 8]
    lock inc dword ptr [rt_interrupts + rax * 4]
    mov eax, 0xfee000b0                 # local APIC: end of interrupt
    mov dword ptr [rax], 0
    pop rax
    add rsp, 8
    iretq

# ---- Exceptions: [rsp] is vector, error code, rip, cs, rflags, rsp, ss ------
exception:
    cmp qword ptr [rsp], 13             # a refused MSR access is an answer
    jne 2f
    cmp qword ptr [rsp + 16], offset read_msr_at
    je 1f
    cmp qword ptr [rsp + 16], offset write_msr_at
    jne 2f
1:  mov esi, 1
    add rsp, 16                         # vector and error code
    add qword ptr [rsp], 2              # both instructions have two bytes
    iretq
2:  pop rdi
    pop rsi
    pop rdx
    pop r9
    pop r8                              # rflags
    pop r8
    mov rcx, cr2
    mov eax, 1
    lock xadd [reports], eax
    test eax, eax
    jnz 3f
    mov esp, offset report_frame
    iretq                               # to ring 3: rt_report(vector, error,
                                        #            rip, cr2, rsp, cs)
3:  mov edx, 0x3f8                      # the report itself failed
    mov al, '!'
    out dx, al
    out dx, al
    mov al, '\n'
    out dx, al
    mov edx, 0x600
    mov al, 0x34
    out dx, al
    jmp halt

    .section .bss.interrupts, "aw", @nobits
    .balign 8
    .globl rt_interrupts
rt_interrupts:
    .skip 256 * 4
