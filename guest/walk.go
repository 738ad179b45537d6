package guest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"snap/phys"
)

// VirtReader reads guest-virtual memory. ReadVirt fills all of p with what is
// at the virtual address at, or fails; after an error the contents of p are
// undefined.
type VirtReader interface {
	ReadVirt(ctx context.Context, p []byte, at phys.VirtAddr) error
}

// Mapping is where a virtual address leads.
type Mapping struct {
	Addr       phys.Addr // physical address of the byte that was asked for
	Size       uint64    // of the page: 4 KiB, 2 MiB or 1 GiB
	Writable   bool      // at all levels
	User       bool      // at all levels
	NX         bool      // at any level
	Transition bool      // not present for the processor, but still in RAM
}

// TranslateError says why a virtual address leads nowhere. It wraps
// ErrNotPresent, ErrNotCanonical, ErrMalformed, phys.ErrNotRAM, or what the
// reader of physical memory returned.
type TranslateError struct {
	At    phys.VirtAddr
	Level int    // of the root to 1 (page table), 0 before the walk
	Entry uint64 // the entry that ended the walk
	Err   error

	maps uint64 // bytes that an entry of the level maps, 0 before the walk
}

func (e *TranslateError) Error() string {
	if e.Level == 0 {
		return fmt.Sprintf("translate %#x: %v", uint64(e.At), e.Err)
	}
	return fmt.Sprintf("translate %#x: level %d entry %#x: %v", uint64(e.At), e.Level, e.Entry, e.Err)
}

// Unwrap returns the cause.
func (e *TranslateError) Unwrap() error { return e.Err }

// AddressSpace translates guest-virtual addresses by a page table, as its Paging
// says: 4 KiB, 2 MiB and 1 GiB pages, and pages that are not present for the
// processor but still in RAM: those that Windows has taken from a working set but
// not yet reused (transition pages), at every level at which Windows pages tables
// out and also where the frame number is hidden from L1TF, and those that a
// prototype PTE leads to.
//
// Not supported: pages in a page file, prototype PTEs that only a VAD names.
//
// It keeps a bounded number of table pages, so that a guest that goes on
// changing its tables is seen as it was: make one for each discovery. It is
// safe for concurrent use.
type AddressSpace struct {
	arch   *Arch
	paging *Paging
	mem    phys.Reader
	ram    phys.Runs
	root   phys.Addr
	cache  [cachedTables]atomic.Pointer[table]
}

// cachedTables bounds the table pages that an AddressSpace keeps (1 MiB).
const cachedTables = 256

// table is a page table, or what of it is one.
type table struct {
	at      phys.Addr
	entries []uint64
}

var _ VirtReader = (*AddressSpace)(nil)

// NewAddressSpace returns the address space of the top-level page table at root, of
// x86-64 with 4 levels as nearly all guests have it. The low 12 bits of root (flags
// and PCID of CR3) are ignored. Table pages are read only from ram.
//
// Arch.AddressSpace is for other pagings, FindAddressSpace for where it isn't known
// how the guest pages.
func NewAddressSpace(mem phys.Reader, ram phys.Runs, root phys.Addr) *AddressSpace {
	return AMD64().AddressSpace(&fourLevels, mem, ram, root)
}

// AddressSpace is NewAddressSpace for tables of a that are built as p says, which is
// one of a's.
func (a *Arch) AddressSpace(p *Paging, mem phys.Reader, ram phys.Runs, root phys.Addr) *AddressSpace {
	return &AddressSpace{arch: a, paging: p, mem: mem, ram: ram, root: p.root(uint64(root))}
}

// FindAddressSpace is NewAddressSpace for tables of any kind: the one by which root
// maps a KUSER_SHARED_DATA as Windows does, or that of NewAddressSpace if there is
// none. The error is that of ctx.
func FindAddressSpace(ctx context.Context, mem phys.Reader, ram phys.Runs, root phys.Addr) (*AddressSpace, error) {
	for _, a := range Archs() {
		for _, p := range a.pagings {
			s := a.AddressSpace(p, mem, ram, root)
			_, err := readKUSER(ctx, a, s)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err == nil {
				return s, nil
			}
		}
	}
	return NewAddressSpace(mem, ram, root), nil
}

// at returns the address space of another top-level table of the same guest.
func (s *AddressSpace) at(root phys.Addr) *AddressSpace {
	return s.arch.AddressSpace(s.paging, s.mem, s.ram, root)
}

// Paging returns how the page tables are built that s walks.
func (s *AddressSpace) Paging() *Paging { return s.paging }

// Canonical reports whether s can translate va at all: an address whose upper bits
// are not all alike never leads anywhere.
func (s *AddressSpace) Canonical(va phys.VirtAddr) bool { return s.paging.canonical(va) }

// Arch returns the architecture whose page tables s walks.
func (s *AddressSpace) Arch() *Arch { return s.arch }

// Root returns the physical address of the top-level page table.
func (s *AddressSpace) Root() phys.Addr { return s.root }

// Drop forgets the table pages that were read so far.
func (s *AddressSpace) Drop() {
	for i := range s.cache {
		s.cache[i].Store(nil)
	}
}

// kernel reports whether va is in the kernel's half.
func (s *AddressSpace) kernel(va phys.VirtAddr) bool { return va.Kernel() && s.Canonical(va) }

// table returns the table of a level at a physical address.
func (s *AddressSpace) table(ctx context.Context, at phys.Addr, level int) (*table, error) {
	slot, n := &s.cache[at.PFN()%cachedTables], s.paging.entries(level)
	if t := slot.Load(); t != nil && t.at == at && uint64(len(t.entries)) == n {
		return t, nil
	}
	if !s.ram.Has(at.PFN()) {
		return nil, &phys.AccessError{At: at, Len: phys.PageSize, Err: phys.ErrNotRAM}
	}
	var page [phys.PageSize]byte
	if err := s.mem.ReadPhys(ctx, page[:], at&^(phys.PageSize-1)); err != nil {
		return nil, err
	}
	t := &table{at: at, entries: make([]uint64, n)}
	s.paging.load(t.entries, page[at.Offset():])
	slot.Store(t)
	return t, nil
}

// Translate walks the page table for va. The page it leads to need not be RAM:
// a kernel maps device memory too. Errors are of type *TranslateError.
func (s *AddressSpace) Translate(ctx context.Context, va phys.VirtAddr) (Mapping, error) {
	return s.translate(ctx, va, (*AddressSpace).follow)
}

// leadFunc says where an entry of a table of a level leads. It fails only when
// its context ends.
type leadFunc func(s *AddressSpace, ctx context.Context, e uint64, level int) (lead, error)

// translate is Translate, with what says where entries lead.
func (s *AddressSpace) translate(ctx context.Context, va phys.VirtAddr, leadOf leadFunc) (Mapping, error) {
	p := s.paging
	if !p.canonical(va) {
		return Mapping{}, &TranslateError{At: va, Err: ErrNotCanonical}
	}
	m := Mapping{Writable: true, User: true}
	at := s.root
	for level := p.top; ; level-- {
		t, err := s.table(ctx, at, level)
		if err != nil {
			return Mapping{}, p.walkError(va, level, uint64(at), err)
		}
		e := t.entries[p.index(va, level)]
		l, err := leadOf(s, ctx, e, level)
		if err == nil {
			err = l.err()
		}
		if err != nil {
			return Mapping{}, p.walkError(va, level, e, err)
		}
		m.add(p, e, l, level)
		at = l.at
		if l.kind == leadsToPage {
			m.Size = p.maps(level)
			m.Addr = at | phys.Addr(uint64(va)&(m.Size-1))
			return m, nil
		}
	}
}

// walkError is why a walk ended at an entry of a table of the given level, or
// could not read the table.
func (p *Paging) walkError(va phys.VirtAddr, level int, entry uint64, err error) error {
	return &TranslateError{At: va, Level: level, Entry: entry, Err: err, maps: p.maps(level)}
}

// err returns why an entry leads to neither page nor table, nil if it does.
func (l lead) err() error {
	switch {
	case l.kind == leadsToPage || l.kind == leadsToTable:
		return nil
	case l.malformed:
		return fmt.Errorf("%w: bit 7 is set, which is reserved at this level", ErrMalformed)
	case l.kind == leadsUnknown:
		return fmt.Errorf("%w: where it is, the entry doesn't say", ErrNotPresent)
	}
	return ErrNotPresent
}

// add takes the protection of entry e into m. Of an entry that is not present it
// is encoded otherwise: the page is reachable for reading, which is all that
// matters here.
func (m *Mapping) add(p *Paging, e uint64, l lead, level int) {
	if l.transition {
		m.Transition = true
		return
	}
	if level == p.bare {
		return
	}
	m.Writable = m.Writable && e&p.write != 0
	m.User = m.User && e&p.user != 0
	m.NX = m.NX || e&p.noExec != 0
}

// ReadVirt fills p with the memory at the virtual address at. Pages that
// follow each other in RAM are read at once.
func (s *AddressSpace) ReadVirt(ctx context.Context, p []byte, at phys.VirtAddr) error {
	if uint64(len(p)) > phys.PageSize-at.Offset() {
		s.prefetch(ctx, at, uint64(len(p)))
	}
	return s.readVirt(ctx, s.mem, p, at)
}

// readVirt is ReadVirt of memory that mem reads.
func (s *AddressSpace) readVirt(ctx context.Context, mem phys.Reader, p []byte, at phys.VirtAddr) error {
	if len(p) == 0 {
		return nil
	}
	if end, ok := at.Add(uint64(len(p)) - 1); !ok ||
		s.paging.canonical(end) != s.paging.canonical(at) || end.Kernel() != at.Kernel() {
		return &TranslateError{At: at, Err: ErrNotCanonical}
	}
	for len(p) > 0 {
		start, n, err := s.contiguous(ctx, at, uint64(len(p)))
		if err != nil {
			return err
		}
		if !s.ram.Covers(start, n) {
			return &TranslateError{At: at, Err: &phys.AccessError{At: start, Len: int(n), Err: phys.ErrNotRAM}}
		}
		if err := mem.ReadPhys(ctx, p[:n], start); err != nil {
			return fmt.Errorf("read %d bytes at %#x: %w", n, uint64(at), err)
		}
		p = p[n:]
		at += phys.VirtAddr(n)
	}
	return nil
}

// contiguous translates at and returns how many of the n bytes from there on
// follow each other in physical memory, at least one.
func (s *AddressSpace) contiguous(ctx context.Context, at phys.VirtAddr, n uint64) (phys.Addr, uint64, error) {
	m, err := s.Translate(ctx, at)
	if err != nil {
		return 0, 0, err
	}
	start, have := m.Addr, pageRest(m)
	for have < n {
		m, err := s.Translate(ctx, at+phys.VirtAddr(have))
		if err != nil || m.Addr != start+phys.Addr(have) {
			break // the next call meets the error, if there is one
		}
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		have += pageRest(m)
	}
	return start, min(have, n), nil
}

// pageRest returns the bytes from m's address to the end of its page.
func pageRest(m Mapping) uint64 { return m.Size - uint64(m.Addr)&(m.Size-1) }

// SelfMapSlots returns the indexes of the kernel-half entries of the top-level
// table that map the table itself; where that is a row, of the table that its last
// entry leads to. Windows has exactly one.
func (s *AddressSpace) SelfMapSlots(ctx context.Context) ([]int, error) {
	p, at := s.paging, s.root
	t, err := s.table(ctx, at, p.top)
	if err == nil && p.row {
		at = p.at(t.entries[len(t.entries)-1])
		t, err = s.table(ctx, at, p.top)
	}
	if err != nil {
		return nil, err
	}
	var slots []int
	mask, want := p.selfEntry(at)
	for i := p.kernelEntry(); i < p.entries(p.top); i++ {
		if t.entries[i]&mask == want {
			slots = append(slots, int(i))
		}
	}
	return slots, nil
}

// Pointer reads a pointer of the guest.
func (s *AddressSpace) Pointer(ctx context.Context, at phys.VirtAddr) (phys.VirtAddr, error) {
	return readVA(ctx, s, "pointer", at)
}

// missing returns how many bytes from at on are known to be unmapped after err,
// a failed read or translation at at: the rest of what one entry would map.
func missing(err error, at phys.VirtAddr) uint64 {
	size := uint64(phys.PageSize)
	if te, ok := errors.AsType[*TranslateError](err); ok && te.maps > 0 && errors.Is(te.Err, ErrNotPresent) {
		size = te.maps
	}
	return size - uint64(at)&(size-1)
}
