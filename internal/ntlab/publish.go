package ntlab

import "snap/phys"

// Layout of the note that virtio-win's FwCfg driver publishes (its fwcfg64 folder; QEMU
// docs/specs/vmcoreinfo.rst and dump/win_dump.c), and of the DUMP_HEADER64 in it.
const (
	publishedName   = "VMCOREINFO"
	publishedPrefix = 24 // ELF note header and name

	dumpHeaderSize  = 0x2000
	dumpHeaderRuns  = 0x88
	dumpHeaderMax   = 42
	dumpContextAt   = 0x348
	dumpContextSize = 3000
)

// PublishedNote makes the ELF note that a guest with the FwCfg driver publishes: the
// header that KeInitializeCrashDumpHeader makes, with the address of a decoded copy of
// the KDBG, which it places in the guest's memory, in BugCheckParameter1. ELF cores of the
// image have the note from then on.
func (im *Image) PublishedNote() ([]byte, error) {
	plain, err := im.AllocPages(1)
	if err != nil {
		return nil, err
	}
	if err := im.WriteVirt(plain, im.Truth.KDBGPlain); err != nil {
		return nil, err
	}
	note := make([]byte, publishedPrefix+dumpHeaderSize)
	le.PutUint32(note[0:], uint32(len(publishedName)+1))
	le.PutUint32(note[4:], dumpHeaderSize)
	copy(note[12:], publishedName)
	im.fillHeader(note[publishedPrefix:], plain)
	im.published = note
	return note, nil
}

// fillHeader does what KeInitializeCrashDumpHeader does (WDK), and the driver.
func (im *Image) fillHeader(h []byte, plainKDBG phys.VirtAddr) {
	t := &im.Truth
	for i := 0; i < len(h); i += 4 {
		copy(h[i:], "PAGE")
	}
	copy(h[4:], "DU64")
	for off, v := range map[int]uint32{
		0x08: 0xF, 0x0C: t.Build, 0x30: 0x8664, 0x34: uint32(len(t.Processors)), 0x38: 0,
		0xF00: 0x80000003, 0xF04: 1, 0xF18: 0, 0xF98: 1,
		0x1040: t.ProductType, 0x1044: t.SuiteMask, 0x1050: 0, 0x1054: t.BootID,
	} {
		le.PutUint32(h[off:], v)
	}
	for off, v := range map[int]uint64{
		0x10: uint64(t.DirectoryTableBase), 0x18: uint64(t.PfnDatabase),
		0x20: uint64(t.PsLoadedModuleList), 0x28: uint64(t.PsActiveProcessHead),
		0x40: uint64(plainKDBG), 0x48: 0, 0x50: 0, 0x58: 0, 0x80: uint64(t.KDBG),
		0xF08: 0, 0xF10: 0, 0xFA8: t.SystemTime, 0x1030: t.InterruptTime,
	} {
		le.PutUint64(h[off:], v)
	}
	clear(h[dumpContextAt : dumpContextAt+dumpContextSize])
	runs := t.Runs[:min(len(t.Runs), dumpHeaderMax)]
	le.PutUint32(h[dumpHeaderRuns:], uint32(len(runs)))
	var pages uint64
	for i, r := range runs {
		le.PutUint64(h[dumpHeaderRuns+0x10+16*i:], uint64(r.Base))
		le.PutUint64(h[dumpHeaderRuns+0x18+16*i:], r.Pages)
		pages += r.Pages
	}
	le.PutUint64(h[dumpHeaderRuns+8:], pages)
}
