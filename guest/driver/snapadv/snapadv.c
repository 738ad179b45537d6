/*
 * snapadv - a sample driver that keeps its secrets out of dumps
 *
 * Copyright the snap authors
 * SPDX-License-Identifier: Apache-2.0
 *
 * It holds two buffers, one known by its virtual and one by its physical
 * address. One routine names both: to Windows when the guest crashes, and by
 * SnapAdvertRefresh to a host that dumps the guest while it runs.
 */
#include <ntddk.h>

#include "../snap_advert.h"

#define SNAPADV_TAG 0x76644153UL /* "SAdv" */
#define SNAPADV_VIRTUAL_PAGES 4
#define SNAPADV_PHYSICAL_PAGES 2

SNAP_ADVERT_DECLARE(16);

static PVOID SnapAdvBuffer;     /* nonpaged pool, whole pages */
static PVOID SnapAdvContiguous; /* physically contiguous */
static KBUGCHECK_REASON_CALLBACK_RECORD SnapAdvRecord;
static UCHAR SnapAdvComponent[] = "snapadv";

DRIVER_INITIALIZE DriverEntry;
static DRIVER_UNLOAD SnapAdvUnload;
static KBUGCHECK_REASON_CALLBACK_ROUTINE SnapAdvRemovePages;

/*
 * Names one range at each call. Context, NULL at first, counts the calls. It
 * runs at HIGH_LEVEL in a bug check: no locks, no pageable memory.
 */
static VOID NTAPI SnapAdvRemovePages(KBUGCHECK_CALLBACK_REASON Reason, KBUGCHECK_REASON_CALLBACK_RECORD *Record,
                                     PVOID Data, ULONG Length)
{
    PKBUGCHECK_REMOVE_PAGES pages = (PKBUGCHECK_REMOVE_PAGES)Data;
    ULONG_PTR call;

    UNREFERENCED_PARAMETER(Record);
    if (Reason != KbCallbackRemovePages || Length < sizeof(*pages)) {
        return;
    }
    call = (ULONG_PTR)pages->Context;
    pages->Context = (PVOID)(call + 1);
    switch (call) {
    case 0:
        pages->Flags = KB_REMOVE_PAGES_FLAG_VIRTUAL_ADDRESS | KB_REMOVE_PAGES_FLAG_ADDITIONAL_RANGES_EXIST;
        pages->Address = (ULONG_PTR)SnapAdvBuffer;
        pages->Count = SNAPADV_VIRTUAL_PAGES;
        break;
    case 1:
        pages->Flags = KB_REMOVE_PAGES_FLAG_PHYSICAL_ADDRESS;
        pages->Address = (ULONG_PTR)MmGetPhysicalAddress(SnapAdvContiguous).QuadPart;
        pages->Count = SNAPADV_PHYSICAL_PAGES;
        break;
    default:
        break;
    }
}

static VOID SnapAdvFree(VOID)
{
    if (SnapAdvContiguous != NULL) {
        RtlZeroMemory(SnapAdvContiguous, SNAPADV_PHYSICAL_PAGES * PAGE_SIZE);
        MmFreeContiguousMemory(SnapAdvContiguous);
    }
    if (SnapAdvBuffer != NULL) {
        RtlZeroMemory(SnapAdvBuffer, SNAPADV_VIRTUAL_PAGES * PAGE_SIZE);
        ExFreePoolWithTag(SnapAdvBuffer, SNAPADV_TAG);
    }
}

/* The host stops looking before the pages go back to the pool. */
static VOID NTAPI SnapAdvUnload(PDRIVER_OBJECT DriverObject)
{
    UNREFERENCED_PARAMETER(DriverObject);
    KeDeregisterBugCheckReasonCallback(&SnapAdvRecord);
    (VOID)SnapAdvertClear(SNAP_ADVERT_OF);
    SnapAdvFree();
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    PKBUGCHECK_REASON_CALLBACK_RECORD record = &SnapAdvRecord;
    PHYSICAL_ADDRESS highest;
    NTSTATUS status;

    UNREFERENCED_PARAMETER(RegistryPath);
    DriverObject->DriverUnload = SnapAdvUnload;
#ifdef _WIN64
    highest.QuadPart = -1;
#else
    highest.QuadPart = 0xFFFFFFFF; /* what Address of the structure can say */
#endif
    SnapAdvBuffer = ExAllocatePoolWithTag(NonPagedPool, SNAPADV_VIRTUAL_PAGES * PAGE_SIZE, SNAPADV_TAG);
    SnapAdvContiguous = MmAllocateContiguousMemory(SNAPADV_PHYSICAL_PAGES * PAGE_SIZE, highest);
    if (SnapAdvBuffer == NULL || SnapAdvContiguous == NULL) {
        SnapAdvFree();
        return STATUS_INSUFFICIENT_RESOURCES;
    }

    /* Advertised while still empty: no dump ever holds what comes into them. */
    status = SnapAdvertRefresh(SnapAdvRemovePages, record, SNAP_ADVERT_OF);
    if (!NT_SUCCESS(status)) {
        SnapAdvFree();
        return status;
    }
    RtlFillMemory(SnapAdvBuffer, SNAPADV_VIRTUAL_PAGES * PAGE_SIZE, 0x5A);
    RtlFillMemory(SnapAdvContiguous, SNAPADV_PHYSICAL_PAGES * PAGE_SIZE, 0xA5);

    KeInitializeCallbackRecord(record);
    if (!KeRegisterBugCheckReasonCallback(record, SnapAdvRemovePages, KbCallbackRemovePages, SnapAdvComponent)) {
        /* A Windows that knows no such reason; the host is told nevertheless. */
        DbgPrint("snapadv: no bug check callback\n");
    }
    return STATUS_SUCCESS;
}
