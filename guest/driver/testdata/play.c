/*
 * Plays a driver: each argument is an operation on the table, after which the
 * table is printed. It is printed at each memory barrier and each call of
 * the routine too, as a host may look at it then.
 *
 *   refresh=F:A:C,F:A:C...  the routine answers these flags, address and count,
 *                           one at each call, and then nothing
 *   publish=F:A:C,...       the same by SnapAdvertPublish
 *   clear                   SnapAdvertClear
 *   nested=F:A:C            refresh, whose routine tries another update
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void observe(const char *when);

#define SNAP_ADVERT_BARRIER() (__sync_synchronize(), observe("barrier"))

#include "kernel.h"

#include "../snap_advert.h"

SNAP_ADVERT_DECLARE(CAPACITY);

static KBUGCHECK_REMOVE_PAGES answers[64];
static ULONG_PTR given, calls;
static int nested;
static KBUGCHECK_REASON_CALLBACK_RECORD record;

static void observe(const char *when)
{
    const unsigned char *p = (const unsigned char *)&SnapRemovePages;
    size_t i;

    printf("%s ", when);
    for (i = 0; i < sizeof(SnapRemovePages); i++) {
        printf("%02x", p[i]);
    }
    printf("\n");
}

static void answer(KBUGCHECK_CALLBACK_REASON reason, PKBUGCHECK_REASON_CALLBACK_RECORD of, PVOID data, ULONG length)
{
    PKBUGCHECK_REMOVE_PAGES pages = data;

    printf("call reason=%d record=%d length=%u context=%lu flags=%u code=%#x address=%lu count=%lu\n", (int)reason,
           of == &record, length, (unsigned long)(ULONG_PTR)pages->Context, pages->Flags, pages->BugCheckCode,
           (unsigned long)pages->Address, (unsigned long)pages->Count);
    observe("barrier");
    if (nested) {
        printf("nested %#x\n", (unsigned)SnapAdvertClear(SNAP_ADVERT_OF));
    }
    if (calls < given) {
        pages->Flags = answers[calls].Flags;
        pages->Address = answers[calls].Address;
        pages->Count = answers[calls].Count;
    }
    calls++;
    pages->Context = (PVOID)(calls * 10);
}

static void script(const char *text)
{
    given = calls = 0;
    for (text = strchr(text, '='); text != NULL && given < 64; text = strchr(text, ',')) {
        char *end;
        KBUGCHECK_REMOVE_PAGES *a = &answers[given++];

        memset(a, 0, sizeof(*a));
        a->Flags = (ULONG)strtoul(text + 1, &end, 0);
        a->Address = strtoul(end + 1, &end, 0);
        a->Count = strtoul(end + 1, &end, 0);
        a->Context = (PVOID)1; /* must not show up in the table */
        a->BugCheckCode = 0xE2;
        text = end;
    }
}

int main(int argc, char **argv)
{
    int i;

    printf("base %lx\n", (unsigned long)(ULONG_PTR)&SnapRemovePages);
    observe("table");
    for (i = 1; i < argc; i++) {
        NTSTATUS status;

        script(argv[i]);
        nested = strncmp(argv[i], "nested", 6) == 0;
        if (strncmp(argv[i], "publish", 7) == 0) {
            status = SnapAdvertPublish(answers, (ULONG)given, SNAP_ADVERT_OF);
        } else if (strcmp(argv[i], "clear") == 0) {
            status = SnapAdvertClear(SNAP_ADVERT_OF);
        } else {
            status = SnapAdvertRefresh(answer, &record, SNAP_ADVERT_OF);
        }
        printf("status %#x calls %lu\n", (unsigned)status, (unsigned long)calls);
        observe("table");
    }
    return 0;
}
