# Where the firmware lies: below 640 KiB (boot.ld), out of the way of every
# kernel. Its stack has a guard page on both sides.
    .set TEXT, 0x28000
    .set RODATA, 0x68000
    .set DATA, 0x7d000
    .set GUARD, 0x8e000
    .set STACK_END, 0x9f000
    .set CPUS, 1
    .set MARKER, 0                      # that is for what it boots
