"""extract-krunfw FILE VMLINUX: the kernel of a libkrunfw that is somewhere in FILE.

The library has a kernel's memory image as its symbol KERNEL_BUNDLE, and a function
whose three constants are its address, its entry and its length.
"""

import re
import struct
import sys

PAGE = 4096
# What follows the image: the kernel's BSS, of a length that nothing tells.
ZEROES = 32 << 20


def symbols(elf):
    """Names of the dynamic symbols, with their offsets in the file."""
    phoff, shoff = struct.unpack_from("<QQ", elf, 32)
    phnum, _, shnum = struct.unpack_from("<HHH", elf, 56)
    loads = [struct.unpack_from("<IIQQQQ", elf, phoff + 56 * i) for i in range(phnum)]
    sections = [struct.unpack_from("<IIQQQQII", elf, shoff + 64 * i) for i in range(shnum)]
    for _, kind, _, _, start, size, link, _ in sections:
        if kind != 11:
            continue
        names = sections[link][4]
        for at in range(start, start + size, 24):
            name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", elf, at)
            text = elf[names + name : elf.index(b"\0", names + name)]
            for load, _, offset, address, _, length in loads:
                if load == 1 and address <= value < address + length:
                    yield text, value - address + offset


def library(data):
    """The ELF file within the data that is a libkrunfw, and its symbols."""
    for found in re.finditer(b"\x7fELF\x02\x01\x01", data):
        elf = data[found.start() :]
        try:
            known = dict(symbols(elf))
        except (struct.error, ValueError, IndexError):
            continue
        if b"KERNEL_BUNDLE" in known:
            return elf, known
    sys.exit(f"no libkrunfw in {sys.argv[1]}")


with open(sys.argv[1], "rb") as file:
    elf, known = library(memoryview(file.read()).tobytes())
code = elf[known[b"krunfw_get_kernel"] :][:64]
address, entry, length = (struct.unpack("<I", n)[0] for n in re.findall(b"\x48\xc7\x00(.{4})", code, re.S)[:3])
image = elf[known[b"KERNEL_BUNDLE"] :][:length]
header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
segment = struct.pack("<IIQQQQQQ", 1, 7, PAGE, address, address, length, length + ZEROES, PAGE)
with open(sys.argv[2], "wb") as file:
    file.write((header + segment).ljust(PAGE, b"\0") + image)
