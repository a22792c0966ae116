/* sequence PORT: connects to itself by TCP, from PORT to PORT + 1, and says with what sequence
 * number the connection began, as tcp(7)'s repair mode tells root. */
#include <arpa/inet.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static struct sockaddr_in address(int port)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons(port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int at(int port)
{
    struct sockaddr_in here = address(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
        bind(fd, (struct sockaddr *)&here, sizeof here)) {
        perror("sequence: bind");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv)
{
    int port = argc == 2 ? atoi(argv[1]) : 0, queue = TCP_SEND_QUEUE, on = 1;
    unsigned next;
    socklen_t size = sizeof next;
    struct sockaddr_in there = address(port + 1);
    if (port < 1 || port > 65534) {
        fprintf(stderr, "usage, as root: sequence PORT\n");
        return 1;
    }
    int listener = at(port + 1), fd = at(port);
    if (listen(listener, 1) || connect(fd, (struct sockaddr *)&there, sizeof there) ||
        setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof on) ||
        setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof queue) ||
        getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &next, &size)) {
        perror("sequence");
        return 1;
    }
    /* SYN counts as one. */
    printf("%u\n", next - 1);
    return 0;
}
