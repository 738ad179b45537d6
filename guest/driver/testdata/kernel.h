/*
 * What snap_advert.h needs of wdm.h, for a compiler of the machine that runs
 * the tests. The names and values are those of the public wdm.h and ntstatus.h;
 * sizes follow Windows (LONG has 32 bits).
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <stddef.h>
#include <stdint.h>

typedef void VOID, *PVOID;
typedef unsigned char UCHAR, *PUCHAR;
typedef uint16_t USHORT;
typedef uint32_t ULONG;
typedef int32_t LONG, NTSTATUS;
typedef uint64_t ULONG64;
typedef uintptr_t ULONG_PTR;

#define NTAPI
#ifndef __declspec
#define __declspec(x)
#endif
#define DECLSPEC_ALIGN(n) __attribute__((aligned(n)))
#define NT_SUCCESS(status) ((NTSTATUS)(status) >= 0)

#define STATUS_SUCCESS ((NTSTATUS)0x00000000)
#define STATUS_INVALID_PARAMETER ((NTSTATUS)0xC000000D)
#define STATUS_BUFFER_TOO_SMALL ((NTSTATUS)0xC0000023)
#define STATUS_INVALID_PARAMETER_4 ((NTSTATUS)0xC00000F2)
#define STATUS_DEVICE_BUSY ((NTSTATUS)0x80000011)

#define InterlockedExchange(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)

typedef enum _KBUGCHECK_CALLBACK_REASON { KbCallbackRemovePages = 6 } KBUGCHECK_CALLBACK_REASON;

typedef struct _KBUGCHECK_REASON_CALLBACK_RECORD {
    PVOID Unused;
} KBUGCHECK_REASON_CALLBACK_RECORD, *PKBUGCHECK_REASON_CALLBACK_RECORD;

typedef VOID(NTAPI KBUGCHECK_REASON_CALLBACK_ROUTINE)(KBUGCHECK_CALLBACK_REASON, PKBUGCHECK_REASON_CALLBACK_RECORD,
                                                      PVOID, ULONG);
typedef KBUGCHECK_REASON_CALLBACK_ROUTINE *PKBUGCHECK_REASON_CALLBACK_ROUTINE;

#endif
