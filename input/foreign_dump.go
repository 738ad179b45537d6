package input

import (
	"encoding/binary"
	"io"
	"slices"
)

// Signatures that begin a crash dump of Windows, and where its header has the machine
// and the kind of dump (the public dump header definitions; header.Header has all of
// it).
const (
	signature32 = "PAGEDUMP"
	signature64 = "PAGEDU64"

	machineAt32, dumpTypeAt32 = 0x20, 0xF88
	machineAt64, dumpTypeAt64 = 0x30, 0xF98

	machineAMD64 = 0x8664
	machineI386  = 0x014C
)

// What to do with a dump of a kind that snap doesn't make dumps of.
const (
	asItIs      = "open it in WinDbg as it is; for all of the guest's memory take a dump of it: snap dump DOMAIN"
	storeAsItIs = "open it in WinDbg as it is; to store it smaller: zstd FILE"
)

// dumpKinds returns the kinds of crash dumps that hold no pages as snap reads them,
// whatever Windows they are of.
func dumpKinds() []kind {
	return []kind{
		{"a triage dump (a small memory dump, or kernel minidump)", dumpOf(4), "it holds a stack and what belongs to it, and not the guest's memory", asItIs},
		{"a kernel dump as Windows before 8 wrote it (type 2)", dumpOf(2), notRead, asItIs},
		{"a crash dump's header without memory (type 3)", dumpOf(3), noMemory, "take a dump of the guest: snap dump DOMAIN"},
		{"a dump that a debugger wrote by .dump /k, /ka or /f (RDMP)", dumpOf(8, 9, 10), notRead, asItIs},
	}
}

// otherGuests returns the kinds of crash dumps that are of a Windows that snap doesn't
// understand.
func otherGuests() []kind {
	return []kind{
		{"a crash dump of a Windows on another processor than x86 and x86-64", otherMachine, "snap understands Windows on x86 and x86-64", storeAsItIs},
	}
}

// ForeignDump says what a crash dump is that can be opened, but of which snap can't
// make another, by its header. r is the plain dump, or reads as it. It returns nil for
// all others, and an error if the header can't be read.
func ForeignDump(r io.ReaderAt, size int64, name string) (*Refusal, error) {
	p, err := newProbe(r, size, name)
	if err != nil {
		return nil, err
	}
	if r := p.first(dumpKinds()); r != nil {
		return r, nil
	}
	if r := p.first(otherGuests()); r != nil {
		r.OtherGuest = true
		return r, nil
	}
	return nil, nil
}

// dumpOf reports whether a file is a crash dump of one of these types.
func dumpOf(types ...uint32) func(*probe) bool {
	return func(p *probe) bool {
		t, ok := p.field(dumpTypeAt32, dumpTypeAt64)
		return ok && slices.Contains(types, t)
	}
}

// otherMachine is a dump of another machine than its width's on x86 and x86-64.
func otherMachine(p *probe) bool {
	m, ok := p.field(machineAt32, machineAt64)
	want := uint32(machineAMD64)
	if p.has(0, signature32) {
		want = machineI386
	}
	return ok && m != want
}

// field returns a number of a dump's header, which is elsewhere in one of 32 bits, and
// false in what is no dump.
func (p *probe) field(at32, at64 int64) (uint32, bool) {
	at := at64
	switch {
	case p.has(0, signature32):
		at = at32
	case !p.has(0, signature64):
		return 0, false
	}
	b := p.bytes(at, 4)
	if b == nil {
		return 0, false
	}
	return binary.LittleEndian.Uint32(b), true
}
