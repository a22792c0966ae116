/*
 * stopwatch SECONDS STRING COMMAND [ARG]...: runs COMMAND with its stdout on a
 * pipe and prints, in microseconds from before the fork: its first byte, STRING
 * in its output, its exit; then its exit code. A point that was not reached is
 * -1. After SECONDS the command is killed (code 137). Its output goes to
 * stderr, once the command has ended, so that printing it costs no time.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int main(int argc, char **argv)
{
    static char output[1 << 20];
    size_t used = 0, room = sizeof output;
    long first = -1, found = -1, start;
    int ends[2], status;

    if (argc < 4 || pipe2(ends, O_CLOEXEC) != 0) {
        fprintf(stderr, "usage: stopwatch SECONDS STRING COMMAND [ARG]...\n");
        return 125;
    }
    start = now();
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 1);
        execvp(argv[3], argv + 3);
        perror(argv[3]);
        _exit(127);
    }
    close(ends[1]);
    long limit = atol(argv[1]) * 1000000;
    struct pollfd out = { .fd = ends[0], .events = POLLIN };
    for (;;) {
        long left = start + limit - now();
        if (left <= 0 || poll(&out, 1, left / 1000 + 1) == 0) {
            kill(child, SIGKILL);
            break;
        }
        ssize_t got = read(ends[0], output + used, room - used);
        if (got <= 0)
            break;
        long at = now() - start;
        used += got;
        if (first < 0)
            first = at;
        if (found < 0 && memmem(output, used, argv[2], strlen(argv[2])))
            found = at;
    }
    waitpid(child, &status, 0);
    printf("first %ld string %ld exit %ld code %d\n", first, found, now() - start,
           WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    fwrite(output, 1, used, stderr);
    return 0;
}
