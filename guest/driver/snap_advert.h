/*
 * snap_advert.h - keep pages of a driver out of memory dumps made by the host
 *
 * Copyright the snap authors
 * SPDX-License-Identifier: Apache-2.0
 *
 * Windows asks a driver which pages must stay out of a crash dump by calling
 * its KbCallbackRemovePages routine. A host that dumps the guest's memory from
 * outside can call nothing in the guest, so a driver that includes this header
 * publishes the same answers in a table that the host reads: the exported data
 * symbol SnapRemovePages. There is no device, port or hypercall.
 *
 * Include it after wdm.h or ntddk.h, in C or C++. README.md shows the use.
 *
 * How the table changes: SnapRemovePages begins with a head that has no entries
 * of its own. Its Next is 0 or the address of one of two banks; the other bank
 * is spare. An update fills the spare bank, whose Sequence is odd meanwhile, and
 * then turns Next over with one store. So whenever the host looks, even at a
 * guest that it has just stopped, the head leads to a whole table: the old one
 * or the new one.
 */
#ifndef SNAP_ADVERT_H
#define SNAP_ADVERT_H

#ifdef __cplusplus
#define SNAP_ADVERT_EXTERN extern "C"
#else
#define SNAP_ADVERT_EXTERN extern
#endif

/*
 * The Windows Driver Kit's wdm.h has KBUGCHECK_REMOVE_PAGES, but not every other
 * set of driver headers does. The flags are macros, so they tell.
 */
#ifndef KB_REMOVE_PAGES_FLAG_VIRTUAL_ADDRESS
#define KB_REMOVE_PAGES_FLAG_VIRTUAL_ADDRESS 0x00000001UL
#define KB_REMOVE_PAGES_FLAG_PHYSICAL_ADDRESS 0x00000002UL
#define KB_REMOVE_PAGES_FLAG_ADDITIONAL_RANGES_EXIST 0x80000000UL

typedef struct _KBUGCHECK_REMOVE_PAGES {
    PVOID Context;
    ULONG Flags;
    ULONG BugCheckCode;
    ULONG_PTR Address;
    ULONG_PTR Count;
} KBUGCHECK_REMOVE_PAGES, *PKBUGCHECK_REMOVE_PAGES;
#endif

/* The feature nibbles, bits 4-7 and 8-11, may have any value. */
#define SNAP_ADVERT_FEATURE_FLAGS 0x00000FF0UL

#define SNAP_ADVERT_KIND_FLAGS \
    (KB_REMOVE_PAGES_FLAG_VIRTUAL_ADDRESS | KB_REMOVE_PAGES_FLAG_PHYSICAL_ADDRESS)

#define SNAP_ADVERT_KNOWN_FLAGS \
    (SNAP_ADVERT_KIND_FLAGS | SNAP_ADVERT_FEATURE_FLAGS | KB_REMOVE_PAGES_FLAG_ADDITIONAL_RANGES_EXIST)

#define SNAP_ADVERT_VERSION 1

/* The bug check code for which SnapAdvertRefresh asks: LIVE_SYSTEM_DUMP. */
#define SNAP_ADVERT_BUGCHECK_CODE 0x00000161UL

/* Orders all loads and stores before it and all after it. */
#ifndef SNAP_ADVERT_BARRIER
#ifdef __GNUC__
#define SNAP_ADVERT_BARRIER() __sync_synchronize()
#else
#define SNAP_ADVERT_BARRIER() KeMemoryBarrier()
#endif
#endif

/* What the host reads; KBUGCHECK_REMOVE_PAGES Entries[Capacity] follow it. */
typedef struct _SNAP_ADVERT_TABLE {
    UCHAR Magic[8];          /* 0x00 "SNAPRMPG" */
    USHORT Version;          /* 0x08 SNAP_ADVERT_VERSION */
    USHORT EntrySize;        /* 0x0A sizeof(KBUGCHECK_REMOVE_PAGES) */
    ULONG Capacity;          /* 0x0C entries that fit */
    volatile ULONG Sequence; /* 0x10 odd while the table changes */
    volatile ULONG Count;    /* 0x14 entries in use */
    union {
        ULONG64 Va; /* 0x18 the next table, or 0 */
        volatile ULONG_PTR Pointer;
    } Next;
} SNAP_ADVERT_TABLE, *PSNAP_ADVERT_TABLE;

/* A head and what this header keeps behind it; two banks follow. */
typedef struct _SNAP_ADVERT {
    SNAP_ADVERT_TABLE Head;
    ULONG Capacity;     /* 0x20 of each bank */
    ULONG Current;      /* 0x24 bank to which Head leads or would lead, 0 or 1 */
    volatile LONG Busy; /* 0x28 1 while an update is under way */
    ULONG Reserved;
} SNAP_ADVERT, *PSNAP_ADVERT;

#define SNAP_ADVERT_TABLE_INIT(capacity)                                      \
    {                                                                         \
        { 'S', 'N', 'A', 'P', 'R', 'M', 'P', 'G' }, SNAP_ADVERT_VERSION,      \
        (USHORT)sizeof(KBUGCHECK_REMOVE_PAGES), (capacity), 0, 0, { 0 }       \
    }

/*
 * SNAP_ADVERT_DECLARE(capacity) defines and exports the table, for up to
 * capacity ranges (1 to 65536). Use it once in a driver, at file scope, and not
 * inside a paged data segment: the data of a driver is nonpaged unless a pragma
 * says otherwise. Afterwards SNAP_ADVERT_OF is what the functions below take.
 */
#define SNAP_ADVERT_DECLARE(capacity)                                         \
    struct _SNAP_ADVERT_STORAGE {                                             \
        SNAP_ADVERT Advert;                                                   \
        struct {                                                              \
            SNAP_ADVERT_TABLE Table;                                          \
            KBUGCHECK_REMOVE_PAGES Entries[capacity];                         \
        } Bank[2];                                                            \
    };                                                                        \
    SNAP_ADVERT_EXTERN __declspec(dllexport)                                  \
    struct _SNAP_ADVERT_STORAGE SnapRemovePages;                              \
    __declspec(dllexport) DECLSPEC_ALIGN(8)                                   \
    struct _SNAP_ADVERT_STORAGE SnapRemovePages = {                           \
        { SNAP_ADVERT_TABLE_INIT(0), (capacity), 0, 0, 0 },                   \
        { { SNAP_ADVERT_TABLE_INIT(capacity), { { 0, 0, 0, 0, 0 } } },        \
          { SNAP_ADVERT_TABLE_INIT(capacity), { { 0, 0, 0, 0, 0 } } } }       \
    }

#define SNAP_ADVERT_OF (&SnapRemovePages.Advert)

/* The bank with the given index, 0 or 1. */
static __inline PSNAP_ADVERT_TABLE SnapAdvertBank(PSNAP_ADVERT Advert, ULONG Index)
{
    ULONG_PTR size = sizeof(SNAP_ADVERT_TABLE) + (ULONG_PTR)Advert->Capacity * sizeof(KBUGCHECK_REMOVE_PAGES);

    size = (size + 7) & ~(ULONG_PTR)7;
    return (PSNAP_ADVERT_TABLE)((PUCHAR)(Advert + 1) + Index * size);
}

static __inline PKBUGCHECK_REMOVE_PAGES SnapAdvertEntries(PSNAP_ADVERT_TABLE Table)
{
    return (PKBUGCHECK_REMOVE_PAGES)(Table + 1);
}

/* What the kernel would say to a range. */
static __inline NTSTATUS SnapAdvertCheck(const KBUGCHECK_REMOVE_PAGES *Range)
{
    ULONG kind = Range->Flags & SNAP_ADVERT_KIND_FLAGS;

    if ((Range->Flags & ~SNAP_ADVERT_KNOWN_FLAGS) != 0) {
        return STATUS_INVALID_PARAMETER_4;
    }
    if (kind != KB_REMOVE_PAGES_FLAG_VIRTUAL_ADDRESS && kind != KB_REMOVE_PAGES_FLAG_PHYSICAL_ADDRESS) {
        return STATUS_INVALID_PARAMETER;
    }
    return STATUS_SUCCESS;
}

/* Takes the spare bank for an update, or returns NULL if one is under way. */
static __inline PSNAP_ADVERT_TABLE SnapAdvertBegin(PSNAP_ADVERT Advert)
{
    PSNAP_ADVERT_TABLE bank;

    if (InterlockedExchange(&Advert->Busy, 1) != 0) {
        return NULL;
    }
    bank = SnapAdvertBank(Advert, 1 - Advert->Current);
    bank->Sequence++;
    SNAP_ADVERT_BARRIER();
    return bank;
}

/*
 * Ends an update of the spare bank. If it went well, the host sees it from now
 * on. If not, the spare bank becomes a copy of the current one: a host that
 * came to it just before an earlier turn-over still finds a whole table.
 */
static __inline VOID SnapAdvertEnd(PSNAP_ADVERT Advert, PSNAP_ADVERT_TABLE Bank, ULONG Count, NTSTATUS Status)
{
    PSNAP_ADVERT_TABLE current = SnapAdvertBank(Advert, Advert->Current);
    ULONG i;

    if (!NT_SUCCESS(Status)) {
        Count = current->Count;
        for (i = 0; i < Count; i++) {
            SnapAdvertEntries(Bank)[i] = SnapAdvertEntries(current)[i];
        }
    }
    Bank->Count = Count;
    SNAP_ADVERT_BARRIER();
    Bank->Sequence++;
    SNAP_ADVERT_BARRIER();
    if (NT_SUCCESS(Status)) {
        Advert->Head.Next.Pointer = (ULONG_PTR)Bank;
        SNAP_ADVERT_BARRIER();
        Advert->Head.Sequence += 2;
        Advert->Current = 1 - Advert->Current;
    }
    InterlockedExchange(&Advert->Busy, 0);
}

/* Stores a range, which applies to dumps of every code, as entry Index. */
static __inline NTSTATUS SnapAdvertStore(PSNAP_ADVERT_TABLE Bank, ULONG Index, const KBUGCHECK_REMOVE_PAGES *Range,
                                         ULONG BugCheckCode)
{
    PKBUGCHECK_REMOVE_PAGES entry;
    NTSTATUS status = SnapAdvertCheck(Range);

    if (!NT_SUCCESS(status)) {
        return status;
    }
    if (Index >= Bank->Capacity) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    entry = &SnapAdvertEntries(Bank)[Index];
    *entry = *Range;
    entry->Context = NULL;
    entry->BugCheckCode = BugCheckCode;
    return STATUS_SUCCESS;
}

/*
 * SnapAdvertRefresh asks a driver's KbCallbackRemovePages routine for all its
 * ranges, as the kernel does in a bug check, and publishes them in place of
 * those that were published before. The routine is called with Record and with
 * the code of a live dump; its Context begins as NULL and is kept between
 * calls; it is called again as long as it says that there are additional
 * ranges. The ranges are kept out of every dump, whatever its code.
 *
 * All or nothing: if the answer is wrong or doesn't fit, nothing changes and
 * what was published before stays published.
 *
 *   STATUS_SUCCESS              published; no range at all is a valid answer
 *   STATUS_INVALID_PARAMETER    a range neither virtual nor physical, or both
 *   STATUS_INVALID_PARAMETER_4  a range with unknown flags
 *   STATUS_BUFFER_TOO_SMALL     more ranges than the declared capacity
 *   STATUS_DEVICE_BUSY          another update is under way
 *
 * IRQL: PASSIVE_LEVEL. Call it whenever the ranges have changed, after new
 * pages were allocated and before they get their contents.
 */
static __inline NTSTATUS SnapAdvertRefresh(PKBUGCHECK_REASON_CALLBACK_ROUTINE Callback,
                                           PKBUGCHECK_REASON_CALLBACK_RECORD Record, PSNAP_ADVERT Advert)
{
    PSNAP_ADVERT_TABLE bank = SnapAdvertBegin(Advert);
    KBUGCHECK_REMOVE_PAGES range;
    NTSTATUS status = STATUS_SUCCESS;
    ULONG count = 0;

    if (bank == NULL) {
        return STATUS_DEVICE_BUSY;
    }
    range.Context = NULL;
    range.BugCheckCode = SNAP_ADVERT_BUGCHECK_CODE;
    do {
        range.Flags = 0;
        range.Address = 0;
        range.Count = 0;
        Callback(KbCallbackRemovePages, Record, &range, (ULONG)sizeof(range));
        if (range.Count == 0) {
            break;
        }
        status = SnapAdvertStore(bank, count, &range, 0);
        if (!NT_SUCCESS(status)) {
            break;
        }
        count++;
    } while ((range.Flags & KB_REMOVE_PAGES_FLAG_ADDITIONAL_RANGES_EXIST) != 0);
    SnapAdvertEnd(Advert, bank, count, status);
    return status;
}

/*
 * SnapAdvertPublish publishes Count ranges that the driver has put together
 * itself. Of each, Flags, BugCheckCode (0: every dump), Address and Count are
 * taken. Otherwise it is like SnapAdvertRefresh.
 */
static __inline NTSTATUS SnapAdvertPublish(const KBUGCHECK_REMOVE_PAGES *Ranges, ULONG Count, PSNAP_ADVERT Advert)
{
    PSNAP_ADVERT_TABLE bank = SnapAdvertBegin(Advert);
    NTSTATUS status = STATUS_SUCCESS;
    ULONG i;

    if (bank == NULL) {
        return STATUS_DEVICE_BUSY;
    }
    for (i = 0; i < Count && NT_SUCCESS(status); i++) {
        status = SnapAdvertStore(bank, i, &Ranges[i], Ranges[i].BugCheckCode);
    }
    SnapAdvertEnd(Advert, bank, Count, status);
    return status;
}

/*
 * SnapAdvertClear publishes that no page is to stay out. Call it before the
 * pages are freed, at the latest when the driver unloads.
 */
static __inline NTSTATUS SnapAdvertClear(PSNAP_ADVERT Advert)
{
    return SnapAdvertPublish(NULL, 0, Advert);
}

#endif /* SNAP_ADVERT_H */
