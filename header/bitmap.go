package header

import (
	"fmt"

	"snap/phys"
)

// Bitmap is the header of the page bitmap in dumps of DumpTypeBitmapFull and
// DumpTypeBitmapKernel. It follows the dump header at once; the bitmap follows
// it, one bit for each page frame number, lowest bit first, and the pages whose
// bits are set follow in ascending order from FirstPage on, packed
// (kdmp-parser src/lib/kdmp-parser-structs.h, BMP_HEADER64; volatility3
// symbols/windows/crash64.json, SUMMARY_DUMP).
//
// Like Header it keeps the bytes it came from. It is not changed once decoded.
type Bitmap struct {
	Width Width // of the dump header ahead of it

	Signature   uint32 // BitmapSignatureFull or BitmapSignatureKernel
	ValidDump   uint32 // BitmapValidDump
	DumpOptions uint32
	FirstPage   uint64 // file offset of the first page
	Pages       uint64 // in the file, the number of bits that are set
	BitmapSize  uint64 // bits

	// Runs are the pages in the file.
	Runs phys.Runs

	raw []byte
}

// Magic words of a bitmap's header, as little-endian integers.
const (
	BitmapSignatureFull   uint32 = 0x504D4446 // 'FDMP'
	BitmapSignatureKernel uint32 = 0x504D4453 // 'SDMP'
	BitmapValidDump       uint32 = 0x504D5544 // 'DUMP'
)

// Limits of a bitmap. They bound what a file can cost: a bitmap is read in
// small pieces, so that its length costs time only, and its runs take 16 bytes
// each, 128 MiB at most.
const (
	// MaxBitmapBits is the longest bitmap: 16 TiB of guest-physical addresses,
	// which takes 512 MiB of the file.
	MaxBitmapBits = 1 << 32
	// MaxBitmapRuns is the most runs of pages that a bitmap may have.
	MaxBitmapRuns = 1 << 23
	// maxFirstPage leaves room behind the longest bitmap for any alignment.
	maxFirstPage = 1 << 30
)

// PortableFirstPage is the largest offset of the first page that every known
// reader takes: LeechCore stops there (leechcore/device_file.c). A bitmap stays
// below it while the guest's addresses end before 512 GiB, less 258 MiB.
const PortableFirstPage = 16 << 20

// HasBitmap reports whether dumps of type t have a Bitmap behind their header.
func (t DumpType) HasBitmap() bool {
	return t == DumpTypeBitmapFull || t == DumpTypeBitmapKernel
}

// bitmapHeaderSize is where the bitmap begins, from the end of the dump header.
const bitmapHeaderSize = 0x38

// Names that errors about bitmaps use.
const (
	nameBitmapSignature = "BitmapSignature"
	nameBitmapValidDump = "BitmapValidDump"
	nameFirstPage       = "FirstPage"
	namePages           = "Pages"
	nameBitmapSize      = "BitmapSize"
	nameBitmap          = "Bitmap"
)

// bitmapRow is one field of the bitmap's header: all that is known of it.
type bitmapRow struct {
	name string
	at   place // from the end of the dump header
	kind Kind
	doc  string
	cell func(*Bitmap) cell // nil for a reserved area
}

// bitmapRows is BMP_HEADER64, in order.
var bitmapRows = []bitmapRow{
	{
		nameBitmapSignature, at(0x00, 4), KindTag, "FDMP in a full dump, SDMP in a kernel dump",
		func(b *Bitmap) cell { return num(&b.Signature) },
	},
	{
		nameBitmapValidDump, at(0x04, 4), KindTag, "always DUMP",
		func(b *Bitmap) cell { return num(&b.ValidDump) },
	},
	{
		"DumpOptions", at(0x08, 4), KindHex, "unused since Windows 8",
		func(b *Bitmap) cell { return num(&b.DumpOptions) },
	},
	{name: "Unused0C", at: at(0x0C, 20), doc: reserved},
	{
		nameFirstPage, at(0x20, 8), KindHex, "file offset of the first page",
		func(b *Bitmap) cell { return num(&b.FirstPage) },
	},
	{
		namePages, at(0x28, 8), KindNumber, "pages in the file",
		func(b *Bitmap) cell { return num(&b.Pages) },
	},
	{
		nameBitmapSize, at(0x30, 8), KindNumber, "bits of the bitmap, one for each page frame number",
		func(b *Bitmap) cell { return num(&b.BitmapSize) },
	},
}

var (
	layoutBitmap64 = atEnd(Width64)
	layoutBitmap32 = atEnd(Width32)
)

// atEnd is the layout of a bitmap's header behind a dump header of width w.
func atEnd(w Width) []Field {
	var fields []Field
	for _, r := range bitmapRows {
		fields = append(fields, Field{Name: r.name, Offset: w.Size() + r.at.offset, Size: r.at.size, Kind: r.kind, Doc: r.doc})
	}
	return fields
}

// LayoutBitmap returns the fields of the bitmap's header behind a dump header
// of width w, as Layout does for that one; offsets are from the start of the
// file. It is nil for a width that does not exist. The slice is the caller's.
func LayoutBitmap(w Width) []Field {
	return append([]Field(nil), layoutBitmap(w)...)
}

func layoutBitmap(w Width) []Field {
	switch w {
	case Width32:
		return layoutBitmap32
	case Width64:
		return layoutBitmap64
	}
	return nil
}

// Fields lists the fields of the bitmap's header in order of their offsets,
// which are from the start of the file, as Header.Fields does.
func (b *Bitmap) Fields() []FieldValue {
	var list []FieldValue
	for _, f := range layoutBitmap(b.Width) {
		at := f.Offset - b.Width.Size()
		list = append(list, f.value(b.raw[at:at+f.Size], (*Header)(nil)))
	}
	return list
}

// bitmapError is a *FormatError about the field called name.
func bitmapError(w Width, name string, value uint64, format string, args ...any) error {
	e := &FormatError{Field: name, Offset: w.Size() + bitmapHeaderSize, Value: value, Reason: fmt.Sprintf(format, args...)}
	for _, f := range layoutBitmap(w) {
		if f.Name == name {
			e.Offset = f.Offset
		}
	}
	return e
}
