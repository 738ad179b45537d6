package guest

import (
	"context"
	"encoding/binary"
	"slices"
	"sort"
	"strings"

	"snap/phys"
)

// What Reason is in the KBUGCHECK_REASON_CALLBACK_RECORD of a KbCallbackRemovePages
// routine, and its State (wdm.h). Entry, a LIST_ENTRY, is first in it; Component is the
// address of an ASCII string, and State a byte.
const (
	reasonRemovePages = 6

	// A record that isn't registered is BufferEmpty, 0. Registration makes it
	// BufferInserted; a bug check takes it on to BufferIncomplete.
	stateInserted   = 1
	stateIncomplete = 4
)

// Bounds on the search for records.
const (
	maxCallbackScan   = 64 << 20 // bytes, of all modules
	maxCallbackModule = 8 << 20  // bytes of one module, whose data is a few pages
	maxCallbackList   = 4096     // entries of the list that records are linked in
	maxCallbacks      = 4096     // records; a Windows has some dozens
	maxSilentDrivers  = 256
	maxComponent      = 64 // bytes
)

// IMAGE_SCN_MEM_READ and IMAGE_SCN_MEM_WRITE (Microsoft PE format).
const sectionReadWrite = 0x4000_0000 | 0x8000_0000

// silentSearch looks for the records of drivers that advertise nothing in the
// writable data of modules, and by the list that links them. Without a record
// in some module's data those in pool are not found. The kernel is not looked
// through: Windows' own callbacks are no news.
type silentSearch struct {
	*advertReader
	modules []*advertModule // by base
	buf     []byte
	left    int
	found   map[phys.VirtAddr]bool // records
	linked  map[phys.VirtAddr]bool // list entries that were followed
}

func (a *advertReader) findSilent(ctx context.Context) {
	s := &silentSearch{
		advertReader: a, modules: slices.Clone(a.modules), buf: make([]byte, scanChunk),
		left: maxCallbackScan, found: map[phys.VirtAddr]bool{}, linked: map[phys.VirtAddr]bool{},
	}
	sort.SliceStable(s.modules, func(i, j int) bool { return s.modules[i].base < s.modules[j].base })
	for i, m := range a.modules {
		if i%prefetchModules == 0 {
			s.prefetchData(ctx, a.modules[i:min(i+prefetchModules, len(a.modules))])
		}
		if s.searched(m) {
			s.module(ctx, m)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// prefetchModules is the data of how many modules is announced at a time.
const prefetchModules = 32

// searched reports whether the data of a module is looked through.
func (s *silentSearch) searched(m *advertModule) bool {
	return m.image != nil && m.base != s.sys.Kernel.Base
}

// writable reports whether a section is data that drivers write to.
func (sec *Section) writable() bool { return sec.Characteristics&sectionReadWrite == sectionReadWrite }

// prefetchData announces the writable data of modules.
func (s *silentSearch) prefetchData(ctx context.Context, modules []*advertModule) {
	phys.Prefetch(ctx, s.sys.Space.mem, func(yield func(phys.Run) bool) {
		for _, m := range modules {
			if !s.searched(m) {
				continue
			}
			for _, sec := range m.image.Sections {
				if !sec.writable() {
					continue
				}
				n := min(uint64(sec.VirtualSize), maxCallbackModule)
				for r := range s.sys.Space.resident(ctx, m.base+phys.VirtAddr(sec.VirtualAddress), n) {
					if !yield(r) {
						return
					}
				}
			}
		}
	})
}

// module looks through the sections of one module.
func (s *silentSearch) module(ctx context.Context, m *advertModule) {
	left := min(s.left, maxCallbackModule)
	word, size := phys.VirtAddr(s.sys.Space.arch.pointer), phys.VirtAddr(s.sys.Space.arch.layout.callbackSize)
	for _, sec := range m.image.Sections {
		if !sec.writable() {
			continue
		}
		at := m.base + (phys.VirtAddr(sec.VirtualAddress)+word-1)&^(word-1)
		end := m.base + phys.VirtAddr(sec.VirtualAddress) + phys.VirtAddr(sec.VirtualSize)
		for at+size <= end && left > 0 {
			n := min(int(end-at), len(s.buf), left)
			left -= n
			s.left -= n
			if pages, err := readSparse(ctx, s.sys.Space, s.buf[:n], at); err != nil {
				return
			} else if pages > 0 {
				s.records(ctx, s.buf[:n], at)
			}
			if n < len(s.buf) {
				break
			}
			// A record may straddle two reads.
			at += phys.VirtAddr(n) - size + word
		}
	}
}

// records looks at each position of b, which is memory from at on.
func (s *silentSearch) records(ctx context.Context, b []byte, at phys.VirtAddr) {
	arch := s.sys.Space.arch
	word, size := arch.pointer, arch.layout.callbackSize
	for ; len(b) >= size; b, at = b[word:], at+phys.VirtAddr(word) {
		if s.inspect(ctx, b[:size], at) {
			r := record{arch: arch, b: b}
			s.follow(ctx, r.va(0))
		}
	}
}

// follow goes on from a record to those that it is linked with, whose drivers
// may keep them in pool. The list's head is in the way, and is no record.
func (s *silentSearch) follow(ctx context.Context, at phys.VirtAddr) {
	for len(s.linked) < maxCallbackList && !s.linked[at] && alignedPointer(s.sys.Space, "list entry", at) == nil {
		s.linked[at] = true
		r, err := readRecord(ctx, s.sys.Space, "list entry", at, s.sys.Space.arch.layout.callbackSize)
		if err != nil {
			return
		}
		s.inspect(ctx, r.b, at)
		at = r.va(0)
	}
}

// inspect reports whether b, the memory at at, is a record, and notes a driver
// that is silent.
func (s *silentSearch) inspect(ctx context.Context, b []byte, at phys.VirtAddr) bool {
	arch := s.sys.Space.arch
	l := &arch.layout
	if binary.LittleEndian.Uint32(b[l.callbackReason:]) != reasonRemovePages {
		return false
	}
	r := &record{arch: arch, what: "KBUGCHECK_REASON_CALLBACK_RECORD", at: at, b: b}
	routine, component, state := r.va(l.callbackRoutine), r.va(l.callbackComponent), r.u8(l.callbackState)
	if r.va(l.callbackChecksum) != arch.Address(uint64(routine)+reasonRemovePages+uint64(component)) || state < stateInserted || state > stateIncomplete {
		return false
	}
	owner := s.holder(routine)
	if owner == nil || s.holder(component) == nil || s.found[at] || len(s.found) >= maxCallbacks {
		return false
	}
	s.found[at] = true
	if !owner.advertises && owner.base != s.sys.Kernel.Base && len(s.out.Silent) < maxSilentDrivers {
		s.out.Silent = append(s.out.Silent, SilentDriver{Module: owner.name, Component: s.component(ctx, component), Record: at})
	}
	return true
}

// holder returns the module that an address lies in, nil if there is none.
func (s *silentSearch) holder(va phys.VirtAddr) *advertModule {
	i := sort.Search(len(s.modules), func(i int) bool { return s.modules[i].base > va })
	if i == 0 || va >= s.modules[i-1].end() {
		return nil
	}
	return s.modules[i-1]
}

// component returns the text of a component's name.
func (s *silentSearch) component(ctx context.Context, at phys.VirtAddr) string {
	text := make([]byte, maxComponent)
	if _, err := readSparse(ctx, s.sys.Space, text, at); err != nil {
		return ""
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, cString(text))
}
