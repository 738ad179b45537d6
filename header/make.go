package header

import (
	"cmp"
	"errors"
	"fmt"

	"snap/phys"
)

// What the kernel's routine writes as exception of a header that belongs to no
// crash (seen in the real dumps in testdata).
const (
	statusBreakpoint        uint32 = 0x80000003 // STATUS_BREAKPOINT, ntstatus.h
	exceptionNoncontinuable uint32 = 1          // EXCEPTION_NONCONTINUABLE, winnt.h
)

// Make makes the header of a dump of type t, DumpTypeFull or
// DumpTypeBitmapFull, of the guest that facts describes, with the pages of
// facts.Runs. It returns the header, whose Fields say where each value comes
// from, and all bytes that come before the first page: the header's own and
// those of the bitmap, if there is one.
//
// What the header says is as InitializeCrashDumpHeader and
// InitializeBitmapDumpHeader have it. A type of which nothing is made is an
// error, as are facts that no reader could work with, a *FactError, and pages
// that the header or the bitmap has no room for, a *FactError or a
// *FormatError.
func Make(facts *Facts, t DumpType) (*Header, []byte, error) {
	h, img, err := facts.makeType(t)
	if err != nil {
		return nil, nil, fmt.Errorf("make the header of a %v dump: %w", t, err)
	}
	return h, img, nil
}

func (f *Facts) makeType(t DumpType) (*Header, []byte, error) {
	if f == nil {
		return nil, nil, errors.New("no facts about the guest")
	}
	w, err := f.width()
	if err != nil {
		return nil, nil, err
	}
	switch t {
	case DumpTypeFull:
		return f.makeFull(w)
	case DumpTypeBitmapFull:
		return f.makeBitmap(w, f.Runs.Value)
	}
	return nil, nil, fmt.Errorf("dump type %d: headers are made for %d (%v) and %d (%v)", uint32(t),
		uint32(DumpTypeFull), DumpTypeFull, uint32(DumpTypeBitmapFull), DumpTypeBitmapFull)
}

// makeFull makes the header of a full dump of the facts' runs.
func (f *Facts) makeFull(w Width) (*Header, []byte, error) {
	if err := f.checkRuns(w); err != nil {
		return nil, nil, err
	}
	if err := f.check(w, f.Runs.Value); err != nil {
		return nil, nil, err
	}
	m := &making{
		Facts: f, width: w, dumpType: DumpTypeFull,
		firstPage: uint64(w.Size()), pages: phys.Runs(f.Runs.Value).Pages(),
	}
	h := m.header()
	img, err := h.Encode()
	if err != nil {
		return nil, nil, err
	}
	h.raw = append([]byte(nil), img...)
	return h, img, nil
}

// makeBitmap makes the header of a dump of pages with a bitmap.
func (f *Facts) makeBitmap(w Width, pages phys.Runs) (*Header, []byte, error) {
	if err := f.check(w, pages); err != nil {
		return nil, nil, err
	}
	b, err := newBitmap(w, pages)
	if err != nil {
		return nil, nil, err
	}
	m := &making{Facts: f, width: w, dumpType: DumpTypeBitmapFull, firstPage: b.FirstPage, pages: b.Pages}
	h := m.header()
	img, err := h.EncodeBitmap(pages)
	if err != nil {
		return nil, nil, err
	}
	h.raw = append([]byte(nil), img[:w.Size()]...)
	return h, img, nil
}

// making is a header that is being made from facts that were checked.
type making struct {
	*Facts
	width     Width
	dumpType  DumpType
	firstPage uint64 // file offset
	pages     uint64
}

// header sets all fields that have something to say, and keeps their origins.
func (m *making) header() *Header {
	h := blank(m.width)
	h.from = map[string]string{}
	for _, f := range layout(m.width) {
		if f.row.set != nil {
			h.from[f.Name] = f.row.set(h, m)
		}
	}
	return h
}

// know sets a field of a header and returns the value's origin.
func know[T any](field *T, value T, from string) string {
	*field = value
	return from
}

// take is know for a value that goes into the header as it is.
func take[T any](field *T, v phys.Known[T]) string { return know(field, v.Value, v.From) }

// constant is know for what the format demands.
func constant[T any](field *T, value T) string { return know(field, value, FromFormat) }

// address takes a kernel virtual address in as many bits as the header has for it.
func (m *making) address(field *phys.VirtAddr, a phys.Known[phys.VirtAddr]) string {
	if m.width == Width32 {
		a.Value &= maxUint32
	}
	return take(field, a)
}

// kdbg sets the address of the KDBG: 0 where the guest has none, which leads no reader
// anywhere, as the fill of unset fields might.
func (m *making) kdbg(h *Header) string {
	if m.KdDebuggerDataBlock.Value == 0 {
		return know(&h.KdDebuggerDataBlock, 0, FromNoKDBG)
	}
	return m.address(&h.KdDebuggerDataBlock, m.KdDebuggerDataBlock)
}

func (m *making) pfnDatabase(h *Header) string {
	if m.PfnDatabase.Value == 0 {
		return "" // stays unset
	}
	return m.address(&h.PfnDataBase, m.PfnDatabase)
}

// runs sets the physical memory. In a dump with a bitmap there is none, and its
// area is zero, as Windows has it.
func (m *making) runs(h *Header) string {
	if m.dumpType.HasBitmap() {
		h.clearDescriptor()
		return FromFormat
	}
	return know(&h.Runs, append([]phys.Run(nil), m.Runs.Value...), m.Runs.From)
}

func (m *making) numberOfPages(h *Header) string {
	if m.dumpType.HasBitmap() {
		return constant(&h.NumberOfPages, 0)
	}
	return know(&h.NumberOfPages, m.pages, m.Runs.From)
}

func (m *making) contextRecord(h *Header) string {
	clear(h.ContextRecord)
	if m.Context.Value == nil {
		return m.whyNoContext()
	}
	copy(h.ContextRecord, m.Context.Value)
	return m.Context.From
}

func (m *making) whyNoContext() string { return cmp.Or(m.Context.From, FromNoContext) }

// exceptionAddress sets the address of the exception, which is a breakpoint: at
// the context's instruction, at 0 without a context, as the kernel's routine
// has it. So has Windows in the dump of a crash: the breakpoint is at KeBugCheckEx,
// where the processor's context is (the triage dump in testdata).
func (m *making) exceptionAddress(h *Header) string {
	if m.Context.Value == nil {
		return know(&h.ExceptionRecord.ExceptionAddress, 0, m.whyNoContext())
	}
	c, _ := DecodeContext(m.Machine.Value, m.Context.Value) // check has decoded it
	return know(&h.ExceptionRecord.ExceptionAddress, phys.VirtAddr(c.Rip), m.Context.From)
}

func (m *making) paeEnabled(h *Header) string {
	h.PaeEnabled = 0
	if m.PAE.Value {
		h.PaeEnabled = 1
	}
	return m.PAE.From
}

func (m *making) secondaryVersion() uint8 {
	if m.Machine.Value == MachineAMD64 {
		return KdSecondaryVersionAMD64Context
	}
	return KdSecondaryVersionDefault
}
