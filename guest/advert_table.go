package guest

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"snap/phys"
)

// advertHead is the fixed part of a table.
type advertHead [advertHeadSize]byte

func (h *advertHead) record(arch *Arch, at phys.VirtAddr) *record {
	return &record{arch: arch, what: "table", at: at, b: h[:]}
}

func (h *advertHead) sequence() uint32 { return binary.LittleEndian.Uint32(h[advertSequenceAt:]) }
func (h *advertHead) count() uint32    { return binary.LittleEndian.Uint32(h[advertCountAt:]) }

// check says what makes the table none of this protocol, whose entries have as many
// bytes as the guest's architecture has it.
func (h *advertHead) check(arch *Arch, at phys.VirtAddr) error {
	r := h.record(arch, at)
	version, size := r.u16(advertVersionAt), r.u16(advertEntryAt)
	capacity, count := r.u32(advertCapacityAt), h.count()
	switch {
	case string(h[:len(advertMagic)]) != advertMagic:
		return malformed(r.what, at, "it begins with %q, not with %q", h[:len(advertMagic)], advertMagic)
	case version != advertVersion:
		return malformed(r.what, at, "version %d, not %d", version, advertVersion)
	case int(size) != arch.layout.removePages:
		return malformed(r.what, at, "entries of %#x bytes, not %#x", size, arch.layout.removePages)
	case count > capacity:
		return malformed(r.what, at, "%d entries, with room for %d", count, capacity)
	}
	return nil
}

// chain reads the table at at and those that it leads to.
func (a *advertReader) chain(ctx context.Context, module string, at phys.VirtAddr) {
	link := phys.VirtAddr(0) // where the address of the table was read
	for depth := 0; at != 0; depth++ {
		if depth == maxAdvertChain {
			a.problem(module, at, fmt.Sprintf("the chain has more than %d tables", maxAdvertChain))
			return
		}
		if len(a.tables) == maxAdvertTables {
			if !a.full {
				a.problem(module, at, fmt.Sprintf("only the first %d tables of the guest are read", maxAdvertTables))
			}
			a.full = true
			return
		}
		t := &advertTry{module: module, at: at, link: link}
		t.read(ctx, a)
		if ctx.Err() != nil {
			return
		}
		a.add(t)
		if !t.sound {
			return
		}
		link = t.at + advertNextAt
		at = t.head.record(a.sys.Space.arch, t.at).va(advertNextAt)
	}
}

// add keeps what came of a table.
func (a *advertReader) add(t *advertTry) {
	if t.err != nil {
		a.out.Problems = append(a.out.Problems, AdvertProblem{
			Module: t.module, At: t.at, Reason: t.err.Error(), Unstable: t.unstable,
		})
		return
	}
	a.entries -= len(t.entries) / a.size
	r := t.head.record(a.sys.Space.arch, t.at)
	a.out.Tables = append(a.out.Tables, AdvertTable{
		Module: t.module, At: t.at, EntrySize: uint32(a.size), Capacity: r.u32(advertCapacityAt),
		Count: t.head.count(), Sequence: t.head.sequence(), Entries: t.entries,
	})
	if got := len(t.entries) / a.size; uint32(got) < t.head.count() {
		a.problem(t.module, t.at, fmt.Sprintf("only the first %d of %d entries are read", got, t.head.count()))
	}
}

// advertTry is the reading of one table.
type advertTry struct {
	module string
	at     phys.VirtAddr
	link   phys.VirtAddr // of the Next that leads to it, 0 for an export

	head     advertHead
	entries  []byte
	sound    bool // head is whole and what the protocol wants
	unstable bool
	err      error
}

// read tries until the table doesn't change meanwhile.
func (t *advertTry) read(ctx context.Context, a *advertReader) {
	for try := range maxAdvertTries {
		if try > 0 && !t.again(ctx, a) {
			break
		}
		if by, ok := a.tables[t.at]; ok {
			t.err = malformed("table", t.at, "it was read already, for %s", by)
			return
		}
		whole := t.once(ctx, a)
		if t.err != nil || whole {
			a.tables[t.at] = t.module
			return
		}
		if ctx.Err() != nil {
			return
		}
	}
	a.tables[t.at] = t.module
	t.unstable = true
	t.err = malformed("table", t.at, "the driver was changing it whenever it was read, the last time with sequence %d", t.head.sequence())
}

// again prepares another try, and reports false if there may be none. A driver
// may have turned to another table since.
func (t *advertTry) again(ctx context.Context, a *advertReader) bool {
	if a.retried -= 1 + len(t.entries)/a.size; a.retried < 0 {
		return false
	}
	if a.pauses > 0 {
		a.pauses--
		timer := time.NewTimer(advertPause)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
		}
	}
	if t.link != 0 {
		if next, err := readVA(ctx, a.now, "Next", t.link); err == nil && next != 0 {
			t.at = next
		}
	}
	return true
}

// once reads the table and reports whether it was whole. A fault is one only
// if the table was.
func (t *advertTry) once(ctx context.Context, a *advertReader) bool {
	t.entries = nil
	if t.err = kernelPointer("table", t.at, 8); t.err != nil {
		return false
	}
	if t.err = a.now.ReadVirt(ctx, t.head[:], t.at); t.err != nil || t.head.sequence()%2 != 0 {
		return false
	}
	fault := t.head.check(a.sys.Space.arch, t.at)
	sound := fault == nil
	if sound {
		n := min(int(t.head.count()), maxTableEntries, a.entries)
		t.entries, fault = readEntries(ctx, a.now, t.at+advertHeadSize, n*a.size)
	}
	var after advertHead
	if t.err = a.now.ReadVirt(ctx, after[:], t.at); t.err != nil || after != t.head {
		return false
	}
	t.sound, t.err = sound, fault
	return t.err == nil
}

// advertChunk is how much memory for entries is taken at a time, so that no
// more is than there are.
const advertChunk = 64 << 10

func readEntries(ctx context.Context, mem VirtReader, at phys.VirtAddr, size int) ([]byte, error) {
	var out []byte
	for len(out) < size {
		had := len(out)
		out = slices.Grow(out, min(advertChunk, size-had))[:had+min(advertChunk, size-had)]
		if err := mem.ReadVirt(ctx, out[had:], at+phys.VirtAddr(had)); err != nil {
			return nil, fmt.Errorf("entries: %w", err)
		}
	}
	return out, nil
}
