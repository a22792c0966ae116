"""extract-vmlinux BZIMAGE VMLINUX: the ELF kernel inside a bzImage.

Offsets are those of Documentation/arch/x86/boot.rst, sections 1.3 and 1.4.
"""

import struct
import subprocess
import sys

DECOMPRESSORS = [
    (b"\x02\x21\x4c\x18", ["lz4", "-dc"]),
    (b"\xfd7zXZ\0", ["xz", "-dc"]),
    (b"\x28\xb5\x2f\xfd", ["zstd", "-dc"]),
    (b"\x1f\x8b", ["gzip", "-dc"]),
]

with open(sys.argv[1], "rb") as file:
    image = file.read()
if image[0x202:0x206] != b"HdrS":
    sys.exit(f"{sys.argv[1]} is not a bzImage")
setup_sectors = image[0x1F1] or 4
offset, length = struct.unpack_from("<II", image, 0x248)
start = (setup_sectors + 1) * 512 + offset
payload = image[start : start + length]

for magic, command in DECOMPRESSORS:
    if payload.startswith(magic):
        break
else:
    sys.exit(f"unknown compression {payload[:6].hex()}")
if command[0] != "gzip":
    # Kbuild appends the unpacked size, which gzip alone has in its own format.
    payload = payload[:-4]
vmlinux = subprocess.run(command, input=payload, stdout=subprocess.PIPE, check=True).stdout
if not vmlinux.startswith(b"\x7fELF"):
    sys.exit("the payload is not an ELF file")
with open(sys.argv[2], "wb") as file:
    file.write(vmlinux)
