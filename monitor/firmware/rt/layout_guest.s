# Where a tiny guest lies: from 2 MiB, as its linker script (guest.ld) says.
    .set TEXT, 0x200000
    .set RODATA, 0x280000
    .set DATA, 0x300000
    .set GUARD, 0x380000
    .set STACK_END, 0x3a3000
    .set CPUS, 32
    .set MARKER, 1                      # write the boot marker first
