/* outb PORT BYTE: writes a byte to an I/O port. Debian's cloud kernel has no /dev/port. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/io.h>

int main(int argc, char **argv)
{
    if (argc != 3 || iopl(3) != 0) {
        fprintf(stderr, "usage, as root: outb PORT BYTE\n");
        return 1;
    }
    outb(strtoul(argv[2], NULL, 0), strtoul(argv[1], NULL, 0));
    return 0;
}
