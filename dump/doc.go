// Package dump is the crash dump file: writing one from a guest's memory,
// reading one back, and expanding it. Where the file goes, and what gives it its
// name when it is whole, is the business of whoever holds the writer (package
// store).
//
// Expanded, a dump of type 1 (DUMP_TYPE_FULL) is the header, 0x2000 bytes for
// 64-bit and 0x1000 for 32-bit guests, followed by the pages of the header's
// runs, packed in run order (QEMU dump/win_dump.c; kdmp-parser
// src/lib/kdmp-parser.h):
//
//	+--------+------------------+------------------+----
//	| header | pages of run 0   | pages of run 1   | ...
//	+--------+------------------+------------------+----
//
// A guest that asks for pages to be left out may have more runs than the header
// has room for. Then the dump is of type 5 (DUMP_TYPE_BITMAP_FULL): a bitmap
// behind the header says which pages follow (package header; kdmp-parser
// src/lib/kdmp-parser-structs.h, BMP_HEADER64):
//
//	+--------+--------+---------+-------------------------
//	| header | bitmap | padding | pages, ascending, packed
//	+--------+--------+---------+-------------------------
//
// Pages that are not in the plan are not read at all, not even to pass over a
// hole of one page in a larger read: what a guest wants left out never comes
// into a buffer from which the file is made. It costs a read for each run.
//
// No debugger reads compressed dumps, so compression is a container around
// that file, and any tool that knows the container gives the plain file back:
//
//	zstd   the Zstandard seekable format; `zstd -d` expands it
//	gzip   a gzip file of many members that say how long they are; `gunzip` expands it
//	zip    a zip archive of one file; Windows opens it, `unzip` expands it
//	none   the plain file
//
// In the zstd container every frame is independent and holds a fixed number of
// expanded bytes: first the header in frames of its own, then the pages,
// FrameSize bytes to a frame, so that a page is found by division and read by
// decoding one frame. All frames carry the standard content checksum, which
// the seek table repeats:
//
//	+--------+---------+-----+---------+----------------------+----------------------+
//	| header | frame 1 | ... | frame n | skippable 0x184D2A53 | skippable 0x184D2A5E |
//	|        |         |     |         | "SNAPMETA" + JSON    | seek table           |
//	+--------+---------+-----+---------+----------------------+----------------------+
//
// Both skippable frames are what the format's specification provides for
// (facebook/zstd contrib/seekable_format/zstd_seekable_compression_format.md),
// so other readers pass over them. The other containers carry no metadata.
//
// In the gzip container every frame is a member of its own. An extra field
// (RFC 1952 2.3.1.1, subfield 'S' 'P') gives its length as stored, and the
// member's trailer the length expanded, so a reader that knows the field hops
// from member to member and then has the same index as that of a seek table;
// others don't notice.
//
// In the zip container every frame is some blocks of one deflate stream, which refer to no
// other frame and end at a byte. Length and checksum follow the stream, since they aren't
// known before; so an archive is written from its start to its end like all else. ZIP64 is
// used as soon as they could need it:
//
//	+--------------+---------+-----+---------+------------+-----------------+-------------------------+-----+
//	| local header | frame 1 | ... | frame n | last block | data descriptor | directory, with index   | end |
//	+--------------+---------+-----+---------+------------+-----------------+-------------------------+-----+
//
// The index is an extra field of the directory's entry (zipindex.go), in which there is
// room for the lengths of some twenty thousand frames. Of larger dumps, those of some
// 20 GiB and more, an entry of it stands for 2, 4, 8 … frames, as many as must be expanded
// for one page, and from 64 MiB of frames on there is none. Zip has one checksum of all of
// the dump and none of a frame: it is verified by whoever reads all of it. Archives of one
// file that others made are read too, through input.OneMember.
//
// What must differ from the guest's memory, such as a decoded KDBG, is an
// Overlay: it is applied to the copy on the way out, never to the guest.
package dump
