/* port PORT TEXT: writes TEXT's bytes to an I/O port. Debian's cloud kernel has no /dev/port. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/io.h>

int main(int argc, char **argv)
{
    if (argc != 3 || iopl(3) != 0) {
        fprintf(stderr, "usage, as root: port PORT TEXT\n");
        return 1;
    }
    for (const char *c = argv[2]; *c; c++)
        outb(*c, strtoul(argv[1], NULL, 0));
    return 0;
}
