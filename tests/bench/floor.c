/*
 * The floor: nothing but the KVM calls that running one guest ELF takes.
 *
 * No monitor can start a virtual machine in less than this; the benchmark
 * reports other programs as a ratio to it. One vCPU, 128 MiB, split interrupt
 * controller (an in-kernel IOAPIC costs milliseconds at exit, as its I/O bus
 * devices wait for a grace period), entry in 64-bit mode as by the Linux boot
 * protocol. What the guest writes to COM1 goes to stdout byte by byte; a write
 * to the ACPI sleep control port ends the program.
 *
 *     gcc -O2 -static-pie -o floor floor.c && ./floor GUEST
 *
 * And nothing but the calls that it takes to go on where a guest was saved:
 *
 *     ./floor GUEST RAW MIB     when the guest writes the boot marker, its memory,
 *                               CPUID and registers go into the file RAW
 *     ./floor --restore RAW     memory is that file's, mapped privately
 */
#include <elf.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    RAM = 128 << 20,
    PAGE_TABLES = 0x9000, /* PML4, PDPT and one page directory */
    GDT = 0x500,
    STACK = 0x8ff0,
    COM1 = 0x3f8,
    SLEEP_CONTROL = 0x600,
    MARKER = 0x604,
};

/* What a raw file has behind the memory. */
struct saved {
    struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[256];
    } cpuid;
    struct kvm_sregs sregs;
    struct kvm_regs regs;
};

static int call(int fd, unsigned long request, void *argument, const char *name)
{
    int result = ioctl(fd, request, argument);
    if (result < 0) {
        perror(name);
        exit(1);
    }
    return result;
}

static void *map(size_t size, int flags, int fd)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (p == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return p;
}

/* Copies the loadable segments into guest memory; returns the entry point. */
static uint64_t load(const char *path, uint8_t *ram)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        perror(path);
        exit(1);
    }
    const uint8_t *file = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    const Elf64_Ehdr *elf = (const void *)file;
    if (file == MAP_FAILED || (size_t)st.st_size < sizeof *elf || memcmp(file, ELFMAG, SELFMAG)) {
        fprintf(stderr, "%s: not an ELF file\n", path);
        exit(1);
    }
    const Elf64_Phdr *segment = (const void *)(file + elf->e_phoff);
    for (int i = 0; i < elf->e_phnum; i++, segment++)
        if (segment->p_type == PT_LOAD && segment->p_paddr + segment->p_filesz <= RAM)
            memcpy(ram + segment->p_paddr, file + segment->p_offset, segment->p_filesz);
    return elf->e_entry;
}

/* Identity-maps the first GiB with 2 MiB pages and lays out the boot GDT. */
static void tables(uint8_t *ram)
{
    uint64_t *pml4 = (uint64_t *)(ram + PAGE_TABLES);
    uint64_t *pdpt = pml4 + 512, *pd = pdpt + 512;
    pml4[0] = (PAGE_TABLES + 0x1000) | 3;
    pdpt[0] = (PAGE_TABLES + 0x2000) | 3;
    for (int i = 0; i < 512; i++)
        pd[i] = ((uint64_t)i << 21) | 0x83;
    uint64_t *gdt = (uint64_t *)(ram + GDT);
    gdt[2] = 0x00af9b000000ffff; /* selector 0x10: 64-bit code */
    gdt[3] = 0x00cf93000000ffff; /* selector 0x18: data */
}

static void registers(int vcpu, uint64_t entry)
{
    struct kvm_sregs s;
    call(vcpu, KVM_GET_SREGS, &s, "KVM_GET_SREGS");
    struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 0x18, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1,
    };
    struct kvm_segment code = data;
    code.selector = 0x10;
    code.type = 11;
    code.db = 0;
    code.l = 1;
    s.cs = code;
    s.ds = s.es = s.fs = s.gs = s.ss = data;
    s.gdt.base = GDT;
    s.gdt.limit = 31;
    s.cr3 = PAGE_TABLES;
    s.cr4 = 0x20;        /* PAE */
    s.cr0 = 0x80000011;  /* PG, ET, PE */
    s.efer = 0x500;      /* LME, LMA */
    call(vcpu, KVM_SET_SREGS, &s, "KVM_SET_SREGS");
    struct kvm_regs r = {.rip = entry, .rsp = STACK, .rflags = 2};
    call(vcpu, KVM_SET_REGS, &r, "KVM_SET_REGS");
}

static int run(int vcpu, struct kvm_run *state, int save_to)
{
    for (;;) {
        call(vcpu, KVM_RUN, NULL, "KVM_RUN");
        if (state->exit_reason != KVM_EXIT_IO || state->io.direction != KVM_EXIT_IO_OUT) {
            fprintf(stderr, "unexpected exit %u\n", state->exit_reason);
            return 1;
        }
        const uint8_t *bytes = (uint8_t *)state + state->io.data_offset;
        if (state->io.port == COM1 && write(1, bytes, state->io.count) < 0)
            return 1;
        if (state->io.port == SLEEP_CONTROL)
            return 0;
        if (state->io.port == MARKER && save_to)
            return 3;
    }
}

static void save(const char *path, int vcpu, struct kvm_run *state, const uint8_t *ram, size_t size,
                 struct saved *saved)
{
    /* The instruction is done when the next one would begin. */
    state->immediate_exit = 1;
    ioctl(vcpu, KVM_RUN, NULL);
    call(vcpu, KVM_GET_SREGS, &saved->sregs, "KVM_GET_SREGS");
    call(vcpu, KVM_GET_REGS, &saved->regs, "KVM_GET_REGS");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (size_t at = 0; at < size; at += 1 << 20)
        if (pwrite(fd, ram + at, 1 << 20, at) != 1 << 20)
            exit(1);
    if (pwrite(fd, saved, sizeof *saved, size) != sizeof *saved)
        exit(1);
}

int main(int argc, char **argv)
{
    int restore = argc == 3 && !strcmp(argv[1], "--restore");
    int save_to = argc == 4;
    if (argc != 2 && !restore && !save_to) {
        fprintf(stderr, "usage: floor GUEST [RAW MIB] | --restore RAW\n");
        return 2;
    }
    static struct saved saved;
    size_t size = save_to ? (size_t)atoi(argv[3]) << 20 : RAM;
    int file = -1;
    if (restore) {
        struct stat st;
        file = open(argv[2], O_RDONLY | O_CLOEXEC);
        if (file < 0 || fstat(file, &st) < 0) {
            perror(argv[2]);
            return 1;
        }
        size = st.st_size - sizeof saved;
    }
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) {
        perror("/dev/kvm");
        return 1;
    }
    int vm = call(kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");
    int flags = MAP_PRIVATE | MAP_NORESERVE | (restore ? 0 : MAP_ANONYMOUS);
    uint8_t *ram = map(size, flags, file);
    struct kvm_userspace_memory_region slot = {.memory_size = size, .userspace_addr = (uintptr_t)ram};
    call(vm, KVM_SET_USER_MEMORY_REGION, &slot, "KVM_SET_USER_MEMORY_REGION");
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
    call(vm, KVM_ENABLE_CAP, &split, "KVM_CAP_SPLIT_IRQCHIP");
    int vcpu = call(vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");

    if (restore) {
        if (pread(file, &saved, sizeof saved, size) != sizeof saved)
            return 1;
    } else {
        saved.cpuid.head.nent = 256;
        call(kvm, KVM_GET_SUPPORTED_CPUID, &saved.cpuid, "KVM_GET_SUPPORTED_CPUID");
    }
    call(vcpu, KVM_SET_CPUID2, &saved.cpuid, "KVM_SET_CPUID2");

    int length = call(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE");
    struct kvm_run *state = map(length, MAP_SHARED, vcpu);
    if (restore) {
        call(vcpu, KVM_SET_SREGS, &saved.sregs, "KVM_SET_SREGS");
        call(vcpu, KVM_SET_REGS, &saved.regs, "KVM_SET_REGS");
        return run(vcpu, state, 0);
    }
    tables(ram);
    registers(vcpu, load(argv[1], ram));
    int end = run(vcpu, state, save_to);
    if (end == 3) {
        save(argv[2], vcpu, state, ram, size, &saved);
        return 0;
    }
    return end;
}
