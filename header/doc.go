// Package header makes and reads the header of a Windows kernel crash dump:
// the 8 KiB DUMP_HEADER64, the 4 KiB DUMP_HEADER32, the bitmap of pages that
// follows it in dumps of types 5 and 6, and the CONTEXT of a processor that goes
// into it and into the dumped processor blocks.
//
//	DUMP_HEADER64                              DUMP_HEADER32
//	0000 'PAGE' 'DU64', versions               000 'PAGE' 'DUMP', versions
//	0010 DirectoryTableBase, list heads        010 DirectoryTableBase, list heads
//	0038 bug check                             028 bug check
//	0088 PHYSICAL_MEMORY_DESCRIPTOR, 700       064 PHYSICAL_MEMORY_DESCRIPTOR, 700
//	0348 CONTEXT, 3000                         320 CONTEXT, 1200
//	0F00 EXCEPTION_RECORD                      7D0 EXCEPTION_RECORD
//	0F98 DumpType, space, times, comment       820 Comment
//	1038 product, status, attributes           F88 DumpType, product, times
//	2000 end                                   1000 end
//
//	Bitmap, behind either
//	00 'FDMP' 'DUMP'
//	20 file offset of the first page
//	28 pages
//	30 bits
//	38 one bit for each page frame number, lowest bit first
//
// Windows fills a header with the word 'PAGE' before it sets fields, so a
// field that still holds that pattern is not set. All integers are
// little-endian. Layouts: QEMU include/qemu/win_dump_defs.h, kdmp-parser
// src/lib/kdmp-parser-structs.h, volatility3 symbols/windows/crash.json and
// crash64.json, held against the real headers in testdata.
//
// [Make] makes a header from [Facts], of either kind: with runs of memory, or
// where those don't suffice with a bitmap. Each fact has its origin, and
// [Header.Fields] says for each field of a header that was made where its value
// comes from. [InitializeCrashDumpHeader] does for a guest seen from outside what
// KeInitializeCrashDumpHeader does for a driver inside.
//
// One table, with a row for each field, drives [Make], [Decode],
// [Header.Encode], [Header.Fields] and [Layout].
//
// The package is pure: bytes and facts in, bytes out. It reads no guest, and of
// a file only what [DecodeBitmap] is given. Values may be used by several
// goroutines as long as nobody changes them.
package header
