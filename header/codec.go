package header

import (
	"bytes"
	"errors"
	"fmt"
)

// SizeOf tells how long the header is that begins with prefix, which must
// have at least 8 bytes. It fails with a *FormatError for bytes that begin no
// dump.
func SizeOf(prefix []byte) (int, error) {
	w, err := widthOf(prefix)
	return w.Size(), err
}

// widthOf finds out from the two magic words which layout b has.
func widthOf(b []byte) (Width, error) {
	if len(b) < 8 {
		return 0, &FormatError{"length", -1, uint64(len(b)), "too few bytes for the signature of a dump"}
	}
	if sig := getUint(b[:4]); sig != uint64(Signature) {
		return 0, &FormatError{"Signature", 0, sig, "not a Windows kernel dump"}
	}
	switch v := uint32(getUint(b[4:8])); v {
	case ValidDump64:
		return Width64, nil
	case ValidDump32:
		return Width32, nil
	default:
		return 0, &FormatError{"ValidDump", 4, uint64(v), "neither DU64 nor DUMP: the dump was never finished"}
	}
}

// formatError is a *FormatError about the field called name.
func formatError(w Width, name string, value uint64, reason string) error {
	f, _ := fieldOf(w, name)
	return &FormatError{Field: name, Offset: f.Offset, Value: value, Reason: reason}
}

// Decode reads the header that b begins with; more bytes may follow. It takes
// what readers of dumps can work with, and fails with a *FormatError for
// anything else: wrong magic words, too few bytes, a machine that does not
// have this layout, a type that no file has. A dump of DumpTypeFull must have
// runs that are in order and add up to NumberOfPages; in all others a
// descriptor that holds no such runs means that there are none.
//
// The Header shares no memory with b.
func Decode(b []byte) (*Header, error) {
	w, err := widthOf(b)
	if err != nil {
		return nil, err
	}
	if len(b) < w.Size() {
		return nil, &FormatError{"length", -1, uint64(len(b)), fmt.Sprintf("a header has %#x bytes", w.Size())}
	}
	h := load(w, b)
	if h.DumpType == DumpTypeFull {
		if h.Runs, err = loadRuns(w, h.raw); err != nil {
			return nil, err
		}
	} else {
		h.Runs = runsIn(w, h.raw)
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	return h, nil
}

// load reads all fields but the runs from an image of a header.
func load(w Width, img []byte) *Header {
	h := &Header{Width: w, raw: bytes.Clone(img[:w.Size()])}
	for _, f := range layout(w) {
		if f.row.cell != nil {
			f.row.cell(h).load(h.raw[f.Offset:f.end()])
		}
	}
	return h
}

// blank returns a header in which nothing but the magic words is set.
func blank(w Width) *Header {
	img := make([]byte, w.Size())
	fill(img, 0)
	h := load(w, img)
	h.Signature, h.ValidDump = Signature, w.validDump()
	return h
}

// check holds the header against what readers demand.
func (h *Header) check() error {
	switch {
	case h.Signature != Signature:
		return formatError(h.Width, "Signature", uint64(h.Signature), "not PAGE")
	case h.ValidDump != h.Width.validDump():
		return formatError(h.Width, "ValidDump", uint64(h.ValidDump), fmt.Sprintf("wrong in a %d-bit header", h.Width))
	case !h.DumpType.file():
		return formatError(h.Width, "DumpType", uint64(h.DumpType), "no dump file has this type")
	}
	if w, ok := h.MachineImageType.Width(); !ok || w != h.Width {
		return formatError(h.Width, "MachineImageType", uint64(h.MachineImageType),
			fmt.Sprintf("no machine with a %d-bit header", h.Width))
	}
	if err := checkRuns(h.Width, h.Runs); err != nil {
		return err
	}
	if h.DumpType == DumpTypeFull {
		return h.checkFull()
	}
	return nil
}

// checkFull is what only a full dump must have: readers find pages by its runs.
func (h *Header) checkFull() error {
	if len(h.Runs) == 0 {
		return formatError(h.Width, nameNumberOfRuns, 0, "a full dump has at least one run")
	}
	// checkRuns has bounded the sum by the address space.
	var sum uint64
	for _, r := range h.Runs {
		sum += r.Pages
	}
	if h.NumberOfPages != sum {
		return formatError(h.Width, nameNumberOfPages, h.NumberOfPages, fmt.Sprintf("the runs have %#x pages", sum))
	}
	return nil
}

// Encode returns the header's bytes, Width.Size() of them. It fails with a
// *FormatError for a header that Decode would not take, or a value that does
// not fit its field. A Header that came from Decode and was not changed gives
// the very bytes that it came from.
func (h *Header) Encode() ([]byte, error) {
	if h.Width.Size() == 0 {
		return nil, &FormatError{"Width", -1, uint64(h.Width), "no such width"}
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	img, err := h.image()
	if err != nil {
		return nil, err
	}
	return img, nil
}

// image writes the fields over the bytes that the header came from. It leaves
// out, and names in its error, what can't be written.
func (h *Header) image() ([]byte, error) {
	img := make([]byte, h.Width.Size())
	fill(img, 0)
	copy(img, h.raw)
	var errs []error
	for _, f := range layout(h.Width) {
		if f.row.cell == nil {
			continue
		}
		if bad, err := f.row.cell(h).store(img[f.Offset:f.end()]); err != nil {
			errs = append(errs, &FormatError{f.Name, f.Offset, bad, err.Error()})
		}
	}
	if err := storeRuns(h.Width, img, h.Runs); err != nil {
		errs = append(errs, err)
	}
	return img, errors.Join(errs...)
}
