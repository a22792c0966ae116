/*
 * stopwatch STRING COMMAND [ARG]...: runs COMMAND with its stdout on a pipe and
 * prints, in microseconds from before the fork: its first byte, the first byte
 * of STRING in its output, its exit; then its exit code. A point that was not
 * reached is -1. The output itself goes to stderr, once the command has ended,
 * so that printing it costs no time.
 */
#define _GNU_SOURCE
#include <fcntl.h>
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

    if (argc < 3 || pipe2(ends, O_CLOEXEC) != 0) {
        fprintf(stderr, "usage: stopwatch STRING COMMAND [ARG]...\n");
        return 125;
    }
    start = now();
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 1);
        execvp(argv[2], argv + 2);
        perror(argv[2]);
        _exit(127);
    }
    close(ends[1]);
    for (;;) {
        ssize_t got = read(ends[0], output + used, room - used);
        if (got <= 0)
            break;
        long at = now() - start;
        used += got;
        if (first < 0)
            first = at;
        if (found < 0 && memmem(output, used, argv[1], strlen(argv[1])))
            found = at;
    }
    waitpid(child, &status, 0);
    printf("first %ld string %ld exit %ld code %d\n", first, found, now() - start,
           WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    fwrite(output, 1, used, stderr);
    return 0;
}
