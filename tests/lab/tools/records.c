/*
 * Numbered records on a disk, each of which can be told from its number and a seed:
 *   records write DISK SEED FIRST MODE [LAST]  writes them in order and says "REC n sum" once a
 *       record is safe: MODE flushed, by fsync; or not, MODE unflushed: a write past the
 *       caches of this kernel that nobody asked to be kept. Ends at an error.
 *   records check DISK SEED                    looks for those that standard input names.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SECTOR = 512, SLOT = 16 * SECTOR };
static uint64_t record[SLOT / 8] __attribute__((aligned(4096)));
static uint64_t found[SLOT / 8] __attribute__((aligned(4096)));

/* Fills in record N, whose length is its own affair too, and returns that; its sum is its last word. */
static size_t make(uint64_t seed, uint64_t n)
{
    uint64_t x = (seed ^ n * 0x9e3779b97f4a7c15) | 1, sum = 0xcbf29ce484222325;
    size_t words = 0, i;
    for (i = 0; i < SLOT / 8; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        if (i == 0)
            words = SECTOR / 8 * (1 + x % (SLOT / SECTOR));
        record[i] = i == 0 ? n : i == 1 ? seed : x;
    }
    for (i = 0; i + 1 < words; i++)
        sum = (sum ^ record[i]) * 0x100000001b3;
    record[words - 1] = sum;
    return words * 8;
}

static uint64_t sum_of(size_t length) { return record[length / 8 - 1]; }

static int write_all(int disk, uint64_t seed, uint64_t first, int flushed, uint64_t last)
{
    for (uint64_t n = first; n <= last; n++) {
        size_t length = make(seed, n);
        if (pwrite(disk, record, length, n * SLOT) != (ssize_t)length || (flushed && fsync(disk) != 0)) {
            perror("records: write");
            return 1;
        }
        printf("REC %" PRIu64 " %016" PRIx64 "\n", n, sum_of(length));
        fflush(stdout);
    }
    return 0;
}

static int check_all(int disk, uint64_t seed)
{
    unsigned long kept = 0, lost = 0;
    uint64_t n, sum;
    int fields;
    while ((fields = scanf(" REC %" SCNu64 " %" SCNx64, &n, &sum)) == 2) {
        size_t length = make(seed, n);
        if (sum != sum_of(length)) {
            fprintf(stderr, "records: %" PRIu64 " is not what it should be\n", n);
            return 2;
        }
        if (pread(disk, found, length, n * SLOT) == (ssize_t)length && memcmp(found, record, length) == 0)
            kept++;
        else if (++lost <= 10)
            printf("LOST %" PRIu64 "\n", n);
    }
    printf("KEPT %lu of %lu\n", kept, kept + lost);
    return fields != EOF ? 2 : lost != 0;
}

int main(int argc, char **argv)
{
    int writes = argc >= 6 && strcmp(argv[1], "write") == 0;
    if (!writes && (argc != 4 || strcmp(argv[1], "check") != 0)) {
        fprintf(stderr, "usage: records write DISK SEED FIRST flushed|unflushed [LAST] | records check DISK SEED\n");
        return 2;
    }
    int flushed = writes && strcmp(argv[5], "flushed") == 0;
    int disk = open(argv[2], writes ? O_WRONLY | (flushed ? 0 : O_DIRECT) : O_RDONLY);
    if (disk < 0) {
        perror(argv[2]);
        return 2;
    }
    uint64_t seed = strtoull(argv[3], NULL, 0);
    if (!writes)
        return check_all(disk, seed);
    return write_all(disk, seed, strtoull(argv[4], NULL, 0), flushed, argc > 6 ? strtoull(argv[6], NULL, 0) : 32767);
}
