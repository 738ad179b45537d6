/*
 * Updates the table as fast as it can on one thread and reads it, as a host
 * would, on another, until it has seen argv[1] different updates. Prints how many
 * reads saw a mixture of two, and how many came to nothing in 100 tries.
 *
 * Update number n publishes n % (CAPACITY + 1) ranges, all at address n.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"

#include "../snap_advert.h"

SNAP_ADVERT_DECLARE(CAPACITY);

static volatile int stop;
static volatile unsigned long updates;

static void *update(void *unused)
{
    KBUGCHECK_REMOVE_PAGES ranges[CAPACITY];
    unsigned long n;
    int i;

    (void)unused;
    memset(ranges, 0, sizeof(ranges));
    for (n = 1; !stop; n++) {
        for (i = 0; i < CAPACITY; i++) {
            ranges[i].Flags = KB_REMOVE_PAGES_FLAG_PHYSICAL_ADDRESS;
            ranges[i].Address = n;
            ranges[i].Count = n;
        }
        if (SnapAdvertPublish(ranges, (ULONG)(n % (CAPACITY + 1)), SNAP_ADVERT_OF) != STATUS_SUCCESS) {
            fprintf(stderr, "update %lu failed\n", n);
            exit(1);
        }
        updates = n;
    }
    return NULL;
}

/* Copies what the head leads to; 0 if it changed meanwhile. */
static int read_once(KBUGCHECK_REMOVE_PAGES *copy, ULONG *count)
{
    volatile SNAP_ADVERT_TABLE *table = (volatile SNAP_ADVERT_TABLE *)SnapRemovePages.Advert.Head.Next.Pointer;
    ULONG before;

    __sync_synchronize();
    before = table->Sequence;
    __sync_synchronize();
    *count = table->Count;
    memcpy(copy, SnapAdvertEntries((PSNAP_ADVERT_TABLE)table), CAPACITY * sizeof(*copy));
    __sync_synchronize();
    return before % 2 == 0 && table->Sequence == before;
}

int main(int argc, char **argv)
{
    KBUGCHECK_REMOVE_PAGES copy[CAPACITY];
    unsigned long want = argc > 1 ? strtoul(argv[1], NULL, 10) : 0, torn = 0, unstable = 0, seen = 0, last = 0;
    pthread_t thread;

    if (pthread_create(&thread, NULL, update, NULL) != 0) {
        return 1;
    }
    while (updates == 0) {
    }
    while (seen < want) {
        ULONG count, i;
        int tries = 0;

        while (!read_once(copy, &count) && ++tries < 100) {
        }
        if (tries == 100) {
            unstable++;
            continue;
        }
        for (i = 1; i < count; i++) {
            if (copy[i].Address != copy[0].Address || copy[i].Count != copy[0].Address) {
                break;
            }
        }
        if (count > 0 && (i < count || copy[0].Address % (CAPACITY + 1) != count)) {
            torn++;
        }
        if (count > 0 && copy[0].Address != last) {
            seen++;
            last = copy[0].Address;
        }
    }
    stop = 1;
    pthread_join(thread, NULL);
    printf("torn %lu unstable %lu\n", torn, unstable);
    return 0;
}
