package guest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"snap/exclude"
	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

var _ exclude.Translator = (*guest.AddressSpace)(nil)

// Virtual and physical, for one bug check code and for all, right and wrong:
// what entries say is not for the guest package to judge.
var someEntries = [][]byte{
	entry(1, 0, 0xFFFF_F800_1234_5000, 3),
	entry(2|0x8000_0000, 0x161, 0x10_0000, 1),
	entry(3, 0xE2, ^uint64(0), ^uint64(0)),
}

func TestAdverts(t *testing.T) {
	for _, p := range ntlab.Profiles() {
		im := build(t, ntlab.Config{Profile: p, Seed: 90})
		d := drivers(im)
		// One table in a driver; one without entries that leads to pool, over
		// pages that are not neighbours in RAM, and on; one that is empty.
		first := advertise(t, im, d[0], goodTable(someEntries...))
		pool := pages(t, im, 3)
		second, third := pool+0x1FB8, pool+0x10
		head := goodTable()
		head.next = second
		headAt := advertise(t, im, d[3], head)
		long := goodTable(someEntries...)
		long.capacity, long.sequence, long.next = 0xFFFF_FFFF, 0xFFFF_FFFE, third
		writeBytes(t, im, second, long.bytes())
		writeBytes(t, im, third, goodTable(someEntries[0]).bytes())
		empty := goodTable()
		empty.capacity = 7
		emptyAt := advertise(t, im, d[1], empty)

		want := map[string][]guest.AdvertTable{
			d[0].Name: {{Module: d[0].Name, At: first, EntrySize: 0x20, Capacity: 3, Count: 3, Sequence: 2, Entries: slices.Concat(someEntries...)}},
			d[1].Name: {{Module: d[1].Name, At: emptyAt, EntrySize: 0x20, Capacity: 7, Sequence: 2}},
			d[3].Name: {
				{Module: d[3].Name, At: headAt, EntrySize: 0x20, Sequence: 2},
				{Module: d[3].Name, At: second, EntrySize: 0x20, Capacity: 0xFFFF_FFFF, Count: 3, Sequence: 0xFFFF_FFFE, Entries: slices.Concat(someEntries...)},
				{Module: d[3].Name, At: third, EntrySize: 0x20, Capacity: 1, Count: 1, Sequence: 2, Entries: someEntries[0]},
			},
		}
		a := adverts(t, im, nil)
		checkAdverts(t, a, slices.Concat(want[d[0].Name], want[d[1].Name], want[d[3].Name]), nil)
		if len(a.Silent) != 0 || len(a.Unread) != 0 {
			t.Errorf("%s: Silent = %+v, Unread = %q; want none", p, a.Silent, a.Unread)
		}
	}
}

func TestAdvertsOfNobody(t *testing.T) {
	for _, p := range ntlab.Profiles() {
		a := adverts(t, build(t, ntlab.Config{Profile: p, Seed: 91}), nil)
		checkAdverts(t, a, nil, nil)
	}
}

// A table whose driver is done changing it after a while is read whole.
func TestAdvertChanges(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 92})
	d := drivers(im)[0]
	table := goodTable(someEntries[0])
	at := advertise(t, im, d, table)
	final := goodTable(someEntries[1])
	want := func(table advertTable, at phys.VirtAddr) []guest.AdvertTable {
		return []guest.AdvertTable{{
			Module: d.Name, At: at, EntrySize: 0x20, Capacity: 1, Count: table.count, Sequence: table.sequence, Entries: table.entries,
		}}
	}
	set := func(va phys.VirtAddr, v uint32) { writeBytes(t, im, va, binary.LittleEndian.AppendUint32(nil, v)) }

	t.Run("odd for 60 reads", func(t *testing.T) {
		table.sequence = 7
		writeBytes(t, im, at, table.bytes())
		final.sequence = 8
		mem := onRead(t, im, at, func(n int) {
			if n == 60 {
				writeBytes(t, im, at, final.bytes())
			}
		})
		checkAdverts(t, adverts(t, im, mem), want(final, at), nil)
	})
	t.Run("changed between head and entries", func(t *testing.T) {
		table.sequence, final.sequence = 8, 10
		writeBytes(t, im, at, table.bytes())
		mem := onRead(t, im, at, func(n int) {
			if n == 0 {
				writeBytes(t, im, at, final.bytes())
			}
		})
		checkAdverts(t, adverts(t, im, mem), want(final, at), nil)
	})
	t.Run("changed after the entries", func(t *testing.T) {
		table.sequence, final.sequence = 8, 10
		writeBytes(t, im, at, table.bytes())
		mem := onRead(t, im, at+0x20, func(n int) {
			if n == 0 {
				writeBytes(t, im, at, final.bytes())
			}
		})
		checkAdverts(t, adverts(t, im, mem), want(final, at), nil)
	})
	t.Run("being changed when a fault is seen", func(t *testing.T) {
		table.sequence, final.sequence = 8, 10
		table.count = 9 // of 1
		writeBytes(t, im, at, table.bytes())
		table.count = 1
		mem := onRead(t, im, at, func(n int) {
			if n == 0 {
				writeBytes(t, im, at, final.bytes())
			}
		})
		checkAdverts(t, adverts(t, im, mem), want(final, at), nil)
	})
	t.Run("odd for ever", func(t *testing.T) {
		table.sequence = 7
		writeBytes(t, im, at, table.bytes())
		reads := 0
		mem := onRead(t, im, at, func(int) { reads++ })
		checkAdverts(t, adverts(t, im, mem), nil, []problem{{d.Name, at, "was changing it", true}})
		// The search for callbacks reads the data once more.
		if reads < 100 || reads > 101 {
			t.Errorf("the head was read %d times; want 100", reads)
		}
	})
	t.Run("changed at each read", func(t *testing.T) {
		table.sequence = 8
		writeBytes(t, im, at, table.bytes())
		mem := onRead(t, im, at, func(n int) { set(at+0x10, uint32(10+2*n)) })
		checkAdverts(t, adverts(t, im, mem), nil, []problem{{d.Name, at, "was changing it", true}})
	})
	t.Run("turned over to another table", func(t *testing.T) {
		pool := pages(t, im, 1)
		head := goodTable()
		head.next = pool
		writeBytes(t, im, at, head.bytes())
		table.sequence, final.sequence = 7, 4
		writeBytes(t, im, pool, table.bytes())       // is being changed, and stays so
		writeBytes(t, im, pool+0x100, final.bytes()) // is what counts by now
		mem := onRead(t, im, pool, func(n int) {
			if n == 0 {
				write(t, im, at+0x18, uint64(pool)+0x100)
			}
		})
		checkAdverts(t, adverts(t, im, mem), slices.Concat(
			[]guest.AdvertTable{{Module: d.Name, At: at, EntrySize: 0x20, Sequence: 2}},
			want(final, pool+0x100)), nil)
	})
}

// Rereading tables has an end, however large they are and many.
func TestAdvertRetriesAreBounded(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 93})
	const entries = 1 << 15
	big := goodTable(make([]byte, entries*0x20))
	big.capacity, big.count = entries, entries
	var problems []problem
	changing := map[phys.Addr]phys.VirtAddr{}
	for _, d := range drivers(im)[:4] {
		at := pages(t, im, entries*0x20/phys.PageSize+1)
		writeBytes(t, im, at, big.bytes())
		head := goodTable()
		head.next = at
		advertise(t, im, d, head)
		problems = append(problems, problem{d.Name, at, "was changing it", true})
		pa, _ := im.Translate(at)
		changing[pa] = at
	}
	read, sequence := 0, uint32(2)
	a := adverts(t, im, &watched{im, func(p []byte, at phys.Addr) {
		read += len(p)
		if va, ok := changing[at]; ok {
			sequence += 2
			writeBytes(t, im, va+0x10, binary.LittleEndian.AppendUint32(nil, sequence))
		}
	}})
	if len(a.Tables) != 4 {
		t.Fatalf("%d tables; want the 4 that lead to those that change", len(a.Tables))
	}
	checkProblems(t, a, problems)
	// Each table once, 32 MiB of entries again, and what else there is.
	if limit := 48 << 20; read > limit {
		t.Errorf("%d MiB were read; want at most %d", read>>20, limit>>20)
	}
}

func TestAdvertsEnd(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 94})
	at := advertise(t, im, drivers(im)[0], goodTable(someEntries...))
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.Space = guest.NewAddressSpace(onRead(t, im, at, func(int) { cancel() }), im.RAM(), s.DirectoryTableBase.Value)
	if a, err := s.Adverts(ctx); !errors.Is(err, context.Canceled) || len(a.Tables)+len(a.Problems) != 0 {
		t.Errorf("Adverts, canceled = %+v, %v; want context.Canceled", a, err)
	}

	// The guest is not to blame for memory that can't be read.
	broken := errors.New("the connection is gone")
	pa, _ := im.Translate(at)
	s.Space = guest.NewAddressSpace(&failingAt{im, pa, broken}, im.RAM(), s.DirectoryTableBase.Value)
	if a, err := s.Adverts(t.Context()); !errors.Is(err, broken) || len(a.Problems) != 1 {
		t.Errorf("Adverts without a page = %+v, %v; want the reader's error and a problem", a, err)
	}
}

// failingAt fails to read one byte.
type failingAt struct {
	phys.Reader
	at  phys.Addr
	err error
}

func (f *failingAt) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	if at <= f.at && uint64(f.at-at) < uint64(len(p)) {
		return &phys.AccessError{At: at, Len: len(p), Err: f.err}
	}
	return f.Reader.ReadPhys(ctx, p, at)
}
