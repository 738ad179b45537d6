package verify

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"snap/header"
	"snap/phys"
)

// pageFields are the fields that say where the pages are. They have checks of
// their own.
var pageFields = []string{
	"NumberOfRuns", "NumberOfPages", "Run",
	"BitmapSignature", "BitmapValidDump", "FirstPage", "Pages", "BitmapSize", "Bitmap",
}

// ofPages reports whether the header could not be decoded because of where it
// says the pages are.
func ofPages(err error) bool {
	bad, ok := errors.AsType[*header.FormatError](err)
	if !ok {
		return false
	}
	name, _, _ := strings.Cut(bad.Field, "[") // of an entry of an array
	return slices.Contains(pageFields, name)
}

func (v *verifier) checkHeader() (string, error) {
	h, err := v.f.Header()
	v.header = h
	raw := v.f.RawHeader()
	found := fmt.Sprintf("%q, %#x bytes", raw[:8], len(raw))
	if err != nil && !ofPages(err) {
		return "", err
	}
	return found, nil
}

func (v *verifier) checkRuns() (string, error) {
	if _, err := v.f.Header(); err != nil {
		return "", err // of the runs, or checkHeader had failed
	}
	h := v.header
	if len(h.Runs) == 0 {
		return "none, as a dump of this type has it", nil
	}
	return fmt.Sprintf("%d runs, %d pages", len(h.Runs), h.NumberOfPages), nil
}

func (v *verifier) checkBitmap() (string, error) {
	if _, err := v.f.Header(); err != nil {
		return "", err // of the bitmap, or checkHeader had failed
	}
	b := v.f.Bitmap()
	return fmt.Sprintf("%s, %d pages in %d runs, %d bits, first page at %#x", signature(b), b.Pages, len(b.Runs), b.BitmapSize, b.FirstPage), nil
}

func (v *verifier) checkKind() (string, error) {
	h := v.header
	kind := fmt.Sprintf("%v dump of %v", h.DumpType, h.MachineImageType)
	pages := h.DumpType == header.DumpTypeFull || h.DumpType.HasBitmap()
	if !pages || h.MachineImageType.ContextSize() == 0 {
		return "", fmt.Errorf("%s: only dumps of %v and %v with runs or a bitmap of pages can be judged", kind, header.MachineAMD64, header.MachineI386)
	}
	return kind, nil
}

// expectedSize is the length of header and pages.
func (v *verifier) expectedSize() uint64 {
	if b := v.f.Bitmap(); b != nil {
		return b.FirstPage + b.Pages*phys.PageSize
	}
	return uint64(v.header.Width.Size()) + v.header.NumberOfPages*phys.PageSize
}

func (v *verifier) checkFileSize() (string, error) {
	if err := v.f.Complete(); err != nil {
		return "", err
	}
	size := uint64(v.f.Size())
	if extra := size - v.expectedSize(); extra > 0 {
		return fmt.Sprintf("%d bytes, %d of them behind the last page", size, extra), nil
	}
	return fmt.Sprintf("%d bytes, as header and pages have", size), nil
}

// checkRequiredDumpSpace: LiveKD leaves the header out, and some leave it unset.
func (v *verifier) checkRequiredDumpSpace() (string, error) {
	switch got, want := v.header.RequiredDumpSpace, v.expectedSize(); got {
	case want:
		return hex(got), nil
	case header.Unset64:
		return "", errors.New("it is not set")
	default:
		return "", fmt.Errorf("%#x; header and pages have %#x bytes", got, want)
	}
}

// What Windows puts into the exception record of every dump that it writes
// itself (ntstatus.h, winnt.h; the real dump headers). Others write the exception
// that was really there, a RIP of another moment (LiveKD), or nothing.
const (
	statusBreakpoint = 0x80000003
	noncontinuable   = 1
)

func (v *verifier) checkExceptionRecord() (string, error) {
	x := &v.header.ExceptionRecord
	switch {
	case x.ExceptionCode != statusBreakpoint:
		return "", fmt.Errorf("code %#x; Windows writes %#x", x.ExceptionCode, statusBreakpoint)
	case x.ExceptionFlags != noncontinuable:
		return "", fmt.Errorf("flags %#x; Windows writes %#x", x.ExceptionFlags, noncontinuable)
	case x.ExceptionRecord != 0:
		return "", fmt.Errorf("a nested record at %#x", uint64(x.ExceptionRecord))
	case x.NumberParameters != 0:
		return "", fmt.Errorf("%d parameters; Windows writes none", x.NumberParameters)
	}
	c, err := header.DecodeContext(v.header.MachineImageType, v.header.ContextRecord)
	if err != nil {
		return "", err
	}
	if at := uint64(x.ExceptionAddress); at != 0 && at != c.Rip {
		return "", fmt.Errorf("address %#x, but the header's context is at %#x", at, c.Rip)
	}
	return "breakpoint at " + hex(x.ExceptionAddress), nil
}

// Bits of DUMP_FILE_ATTRIBUTES about a dump whose pages are encrypted, and one that
// a tool has decrypted since.
const (
	attributeEncrypted = 1 << 8
	attributeDecrypted = 1 << 9
)

func (v *verifier) checkEncryption() (string, error) {
	a := v.header.Attributes
	if a != header.Unset32 && a&(attributeEncrypted|attributeDecrypted) == attributeEncrypted {
		return "", fmt.Errorf("attributes %#x: the pages are encrypted", a)
	}
	return "none", nil
}

// kdSecondaryVersionObsolete says that contexts have the layout of AMD64 before
// Windows was released for it (KD_SECONDARY_VERSION_AMD64_OBSOLETE_CONTEXT_2,
// wdbgexts.h). Windows itself leaves 0, and other writers the fill.
const kdSecondaryVersionObsolete = 1

// checkOtherFields lists what is unusual in fields that readers show, or don't look at.
func (v *verifier) checkOtherFields() (string, error) {
	h := v.header
	var errs []error
	unusual := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	const padding = 0x8C // between NumberOfRuns and NumberOfPages of 64 bits
	if pad := le.Uint32(v.f.RawHeader()[padding:]); h.Width == header.Width64 && pad != 0 && pad != header.Unset32 {
		unusual("the padding at %#x is %#x, neither 0 nor PAGE", padding, pad)
	}
	if h.WriterStatus != 0 && h.WriterStatus != header.Unset32 {
		unusual("WriterStatus %#x: its writer says that something went wrong", h.WriterStatus)
	}
	if h.KdSecondaryVersion == kdSecondaryVersionObsolete {
		unusual("KdSecondaryVersion %d stands for contexts of an obsolete layout", h.KdSecondaryVersion)
	}
	if h.MiniDumpFields != header.Unset32 && h.MiniDumpFields != 0 {
		unusual("MiniDumpFields %#x; only triage dumps set it", h.MiniDumpFields)
	}
	if h.SecondaryDataState != header.Unset32 && h.SecondaryDataState != 0 { // LiveKD has 0
		unusual("SecondaryDataState %#x; most dumps leave it unset", h.SecondaryDataState)
	}
	if len(h.Comment) > header.MaxComment {
		unusual("the comment has no end within %d characters", header.MaxComment)
	}
	return "as in most dumps", errors.Join(errs...)
}
