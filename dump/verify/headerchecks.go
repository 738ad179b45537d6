package verify

import (
	"encoding/binary"
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
	if h.Width == header.Width64 {
		const padding = 0x8C // between NumberOfRuns and NumberOfPages
		if pad := binary.LittleEndian.Uint32(v.f.RawHeader()[padding:]); pad != 0 && pad != header.Unset32 {
			return "", fmt.Errorf("padding at %#x is %#x, neither 0 nor PAGE", padding, pad)
		}
	}
	detail := fmt.Sprintf("%d runs, %d pages", len(h.Runs), h.NumberOfPages)
	if len(h.Runs) > header.PortableRuns {
		detail += fmt.Sprintf("; readers that stop at %d runs (memflow) will refuse it", header.PortableRuns)
	}
	return detail, nil
}

// checkBitmap also demands what only some readers do: memflow-coredump takes a
// type 5 dump with 'FDMP' only, LeechCore an aligned first page only and drops
// the bits behind the last 64, kdmp-parser those behind the last 8.
func (v *verifier) checkBitmap() (string, error) {
	if _, err := v.f.Header(); err != nil {
		return "", err // of the bitmap, or checkHeader had failed
	}
	b := v.f.Bitmap()
	want := header.BitmapSignatureFull
	if v.header.DumpType == header.DumpTypeBitmapKernel {
		want = header.BitmapSignatureKernel
	}
	const word = 64
	switch {
	case b.Signature != want:
		return "", fmt.Errorf("signature %#x; a %v dump has %#x", b.Signature, v.header.DumpType, want)
	case b.BitmapSize%word != 0:
		return "", fmt.Errorf("%d bits, no multiple of %d: readers drop the rest", b.BitmapSize, word)
	case b.FirstPage%phys.PageSize != 0:
		return "", fmt.Errorf("the first page is at %#x, not aligned as LeechCore demands", b.FirstPage)
	}
	detail := fmt.Sprintf("%d pages in %d runs, %d bits, first page at %#x", b.Pages, len(b.Runs), b.BitmapSize, b.FirstPage)
	if b.FirstPage > header.PortableFirstPage {
		detail += fmt.Sprintf("; readers that stop at %#x (LeechCore) will refuse it", header.PortableFirstPage)
	}
	return detail, nil
}

func (v *verifier) checkKind() (string, error) {
	h := v.header
	kind := fmt.Sprintf("%v dump of %v", h.DumpType, h.MachineImageType)
	full := h.DumpType == header.DumpTypeFull || h.DumpType == header.DumpTypeBitmapFull
	if !full || h.MachineImageType != header.MachineAMD64 {
		return "", fmt.Errorf("%s: only full dumps of %v can be checked", kind, header.MachineAMD64)
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

func (v *verifier) checkRequiredDumpSpace() (string, error) {
	if got, want := v.header.RequiredDumpSpace, v.expectedSize(); got != want {
		return "", fmt.Errorf("%#x; header and pages have %#x bytes", got, want)
	}
	return hex(v.header.RequiredDumpSpace), nil
}

// What Windows puts into the exception record of every dump that it writes
// itself (ntstatus.h, winnt.h; the real dump headers).
const (
	statusBreakpoint = 0x80000003
	noncontinuable   = 1
)

func (v *verifier) checkExceptionRecord() (string, error) {
	x := &v.header.ExceptionRecord
	switch {
	case x.ExceptionCode != statusBreakpoint:
		return "", fmt.Errorf("code %#x, want %#x", x.ExceptionCode, statusBreakpoint)
	case x.ExceptionFlags != noncontinuable:
		return "", fmt.Errorf("flags %#x, want %#x", x.ExceptionFlags, noncontinuable)
	case x.ExceptionRecord != 0:
		return "", fmt.Errorf("a nested record at %#x", uint64(x.ExceptionRecord))
	case x.NumberParameters != 0:
		return "", fmt.Errorf("%d parameters, want none", x.NumberParameters)
	}
	c, err := header.DecodeContextAMD64(v.header.ContextRecord)
	if err != nil {
		return "", err
	}
	if at := uint64(x.ExceptionAddress); at != 0 && at != c.Rip {
		return "", fmt.Errorf("address %#x, but the header's context is at %#x", at, c.Rip)
	}
	return "breakpoint at " + hex(x.ExceptionAddress), nil
}

// kdSecondaryVersionObsolete says that contexts have the layout of AMD64 before
// Windows was released for it (KD_SECONDARY_VERSION_AMD64_OBSOLETE_CONTEXT_2,
// wdbgexts.h). Windows itself leaves 0, and other writers the fill.
const kdSecondaryVersionObsolete = 1

// attributeEncrypted marks a dump whose pages are encrypted
// (DUMP_FILE_ATTRIBUTES.EncryptedDumpData).
const attributeEncrypted = 1 << 8

func (v *verifier) checkOtherFields() (string, error) {
	h := v.header
	switch {
	case h.WriterStatus != 0 && h.WriterStatus != header.Unset32:
		return "", fmt.Errorf("WriterStatus %#x: its writer failed", h.WriterStatus)
	case h.KdSecondaryVersion == kdSecondaryVersionObsolete:
		return "", fmt.Errorf("KdSecondaryVersion %d: contexts of an obsolete layout", h.KdSecondaryVersion)
	case h.Attributes != header.Unset32 && h.Attributes&attributeEncrypted != 0:
		return "", fmt.Errorf("attributes %#x: the pages are encrypted", h.Attributes)
	case h.MiniDumpFields != header.Unset32:
		return "", fmt.Errorf("MiniDumpFields %#x; only triage dumps set it", h.MiniDumpFields)
	case h.SecondaryDataState != header.Unset32 && h.SecondaryDataState != 0: // LiveKD has 0
		return "", fmt.Errorf("SecondaryDataState %#x; a full dump leaves it unset", h.SecondaryDataState)
	case len(h.Comment) > header.MaxComment:
		return "", fmt.Errorf("the comment has no end within %d characters", header.MaxComment)
	}
	return "as a full dump has them", nil
}
