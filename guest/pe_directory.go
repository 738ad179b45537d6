package guest

import (
	"context"
	"encoding/binary"
	"fmt"

	"snap/phys"
)

// Offsets in IMAGE_EXPORT_DIRECTORY and IMAGE_DEBUG_DIRECTORY (winnt.h), and
// in the CodeView record that a debug directory of type 2 points to.
const (
	exportDirSize = 40
	exportName    = 12
	exportFuncs   = 20
	exportNames   = 24
	exportAddrs   = 28
	exportNameTab = 32
	exportOrdTab  = 36

	debugEntrySize    = 28
	debugType         = 12
	debugSizeOfData   = 16
	debugAddress      = 20
	debugTypeCodeView = 2

	codeViewRSDS = 0x5344_5352
	codeViewHead = 24 // signature, GUID, age
)

// Bounds on the directories.
const (
	maxExports      = 1 << 16
	maxExportName   = 512
	maxDebugEntries = 32
	maxPDBName      = 260 // MAX_PATH
)

// CodeView identifies the PDB of an image.
type CodeView struct {
	PDB  string // file name, as the linker wrote it
	GUID [16]byte
	Age  uint32
}

// ID returns the GUID and age as symbol servers write them, such as
// "1B2C3D4E5F60718293A4B5C6D7E8F9012".
func (c CodeView) ID() string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08X%04X%04X%X%X", le.Uint32(c.GUID[0:]), le.Uint16(c.GUID[4:]),
		le.Uint16(c.GUID[6:]), c.GUID[8:], c.Age)
}

// ExportName returns the name that the image's export directory gives it, such
// as "ntoskrnl.exe".
func (im *Image) ExportName(ctx context.Context) (string, error) {
	d, err := im.exportDirectory(ctx)
	if err != nil {
		return "", err
	}
	return im.text(ctx, "export directory name", d.u32(exportName), maxExportName)
}

func (im *Image) exportDirectory(ctx context.Context) (*record, error) {
	if im.exports.size < exportDirSize {
		return nil, fmt.Errorf("export directory of the image at %#x: %w", uint64(im.Base), ErrNotFound)
	}
	return im.record(ctx, "export directory", im.exports.rva, exportDirSize)
}

// Export returns the address of an exported function or variable. The names of
// an export directory are sorted, as the Windows loader relies on; it fails
// with ErrNotFound for a name that isn't there and for one that is forwarded
// to another image.
func (im *Image) Export(ctx context.Context, name string) (phys.VirtAddr, error) {
	d, err := im.exportDirectory(ctx)
	if err != nil {
		return 0, err
	}
	names, funcs := d.u32(exportNames), d.u32(exportFuncs)
	if names > maxExports || funcs > maxExports {
		return 0, malformed(d.what, d.at, "%d names and %d functions", names, funcs)
	}
	lo, hi := uint32(0), names
	for lo < hi {
		mid := (lo + hi) / 2
		got, err := im.exportedName(ctx, d, mid)
		if err != nil {
			return 0, err
		}
		switch {
		case got == name:
			return im.exportAddress(ctx, d, mid, funcs)
		case got < name:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return 0, fmt.Errorf("export %s: %w", name, ErrNotFound)
}

func (im *Image) exportedName(ctx context.Context, d *record, i uint32) (string, error) {
	const what = "export name table"
	at, ok := element(d.u32(exportNameTab), i, 4)
	if !ok {
		return "", malformed(what, d.at, "entry %d wraps around", i)
	}
	rva, err := im.record(ctx, what, at, 4)
	if err != nil {
		return "", err
	}
	return im.text(ctx, "export name", rva.u32(0), maxExportName)
}

// exportAddress returns the address of the i-th name.
func (im *Image) exportAddress(ctx context.Context, d *record, i, funcs uint32) (phys.VirtAddr, error) {
	const what = "export address table"
	at, ok := element(d.u32(exportOrdTab), i, 2)
	if !ok {
		return 0, malformed(what, d.at, "ordinal %d wraps around", i)
	}
	ord, err := im.record(ctx, "export ordinal table", at, 2)
	if err != nil {
		return 0, err
	}
	index := uint32(ord.u16(0))
	at, ok = element(d.u32(exportAddrs), index, 4)
	if index >= funcs || !ok {
		return 0, malformed(what, d.at, "ordinal %d of %d", index, funcs)
	}
	fn, err := im.record(ctx, what, at, 4)
	if err != nil {
		return 0, err
	}
	rva := fn.u32(0)
	switch {
	case rva == 0 || rva >= im.Size:
		return 0, malformed(what, fn.at, "address %#x outside the image", rva)
	case im.exports.holds(rva):
		return 0, errForwarded
	}
	return im.Base + phys.VirtAddr(rva), nil
}

// errForwarded says that another image has what an export names.
var errForwarded = fmt.Errorf("export is forwarded to another image: %w", ErrNotFound)

// element returns the address of element i of a table, and false on overflow.
func element(table, i, size uint32) (uint32, bool) {
	at := uint64(table) + uint64(i)*uint64(size)
	return uint32(at), at>>32 == 0
}

// CodeView returns the identity of the image's PDB from its debug directory,
// and ErrNotFound if it has none of the RSDS kind.
func (im *Image) CodeView(ctx context.Context) (CodeView, error) {
	count := im.debug.size / debugEntrySize
	if count > maxDebugEntries {
		return CodeView{}, malformed("debug directory", im.Base, "%d entries", count)
	}
	for i := range count {
		at, _ := element(im.debug.rva, i, debugEntrySize)
		e, err := im.record(ctx, "debug directory", at, debugEntrySize)
		if err != nil {
			return CodeView{}, err
		}
		if e.u32(debugType) != debugTypeCodeView {
			continue
		}
		return im.codeView(ctx, e.u32(debugAddress), e.u32(debugSizeOfData))
	}
	return CodeView{}, fmt.Errorf("CodeView record of the image at %#x: %w", uint64(im.Base), ErrNotFound)
}

func (im *Image) codeView(ctx context.Context, rva, size uint32) (CodeView, error) {
	const what = "CodeView record"
	if size <= codeViewHead {
		return CodeView{}, malformed(what, im.Base, "%d bytes", size)
	}
	r, err := im.record(ctx, what, rva, codeViewHead)
	if err != nil {
		return CodeView{}, err
	}
	if sig := r.u32(0); sig != codeViewRSDS {
		return CodeView{}, fmt.Errorf("%s of kind %#x: %w", what, sig, ErrNotFound)
	}
	cv := CodeView{Age: r.u32(20)}
	copy(cv.GUID[:], r.bytes(4, 16))
	cv.PDB, err = im.text(ctx, what, rva+codeViewHead, int(min(size-codeViewHead, maxPDBName)))
	return cv, err
}
