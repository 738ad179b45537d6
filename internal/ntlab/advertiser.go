package ntlab

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"snap/phys"
)

// reasonRemovePages is KbCallbackRemovePages, and stateInserted BufferInserted
// (WDK wdm.h).
const (
	reasonRemovePages = 6
	stateInserted     = 1
)

// Offsets in KBUGCHECK_REASON_CALLBACK_RECORD (WDK wdm.h, x64).
const (
	recordRoutine   = 0x10
	recordComponent = 0x18
	recordChecksum  = 0x20
	recordReason    = 0x28
	recordState     = 0x2C
	recordSize      = 0x30
)

// loadAdvertiser makes and loads a driver whose data has room for a, and
// returns the address of that room.
func (im *Image) loadAdvertiser(name string, a *Advert) (phys.VirtAddr, error) {
	d := syntheticDriver(im.machine(), name, a, stream(im.Config.Seed, 'd'+mix64(uint64(len(im.Truth.Modules)))))
	m, err := im.load(name, d)
	if err != nil {
		return 0, err
	}
	rva, err := d.export(advertSymbol)
	return m.Base + phys.VirtAddr(rva), err
}

// syntheticDriver makes a driver with a page of code, one of exports, and
// data: a's table and a page besides. Without a it exports nothing.
func syntheticDriver(m *machine, name string, a *Advert, r *rng) *driverFile {
	const code, exports, data = phys.PageSize, 2 * phys.PageSize, 3 * phys.PageSize
	size := uint32(phys.PageSize)
	pe := &peImage{
		machine: m, entry: code + 0x10, timestamp: uint32(r.u64()), osMajor: 10,
		debugRVA: exports + 0x800, pdb: strings.TrimSuffix(name, path.Ext(name)) + ".pdb", age: 1,
	}
	if a != nil {
		size += uint32(a.pages(m)) << phys.PageShift
		pe.name, pe.exportRVA, pe.exports = name, exports, map[string]uint32{advertSymbol: data + a.Offset}
	}
	r.fill(pe.guid[:])
	pe.size = data + size
	pe.sections = []section{
		{".text", code, phys.PageSize, scnCode},
		{".rdata", exports, phys.PageSize, scnRead},
		{".data", data, size, scnWrite},
	}
	image := make([]byte, pe.size)
	for i := range image[code : code+phys.PageSize] {
		image[code+i] = 0xCC
	}
	copy(image[code+0x10:], "\x33\xc0\xc3") // DriverEntry
	copy(image[code+0x40:], "\xc3")         // what may be called back
	if a != nil {
		b := pe.exportDirectory(r)
		pe.exportBytes = uint32(len(b))
		copy(image[exports:], b)
	}
	copy(image[pe.debugRVA:], pe.debugDirectory())
	headers := pe.headers()
	copy(image, headers)
	d, _, err := parseHeaders(headers)
	if err != nil {
		panic("ntlab: internal error: " + err.Error())
	}
	d.image = image
	return d
}

// loaded returns a loaded driver as it is in memory, zeros where it isn't.
func (im *Image) loaded(m Module) (*driverFile, error) {
	image := make([]byte, pagesOf(m.Size)<<phys.PageShift)
	for at := 0; at < len(image); at += phys.PageSize {
		va := m.Base + phys.VirtAddr(at)
		if _, ok := im.Translate(va); !ok {
			continue
		}
		if err := im.ReadVirt(va, image[at:at+phys.PageSize]); err != nil {
			return nil, err
		}
	}
	d, _, err := parseHeaders(image)
	if err != nil {
		return nil, err
	}
	if len(d.image) != len(image) {
		return nil, badPE("an image of %#x bytes, listed with %#x", len(d.image), m.Size)
	}
	d.image = image
	return d, nil
}

// Register makes the named driver, which is made if it isn't loaded, register
// a KbCallbackRemovePages routine: it puts a record into the driver's data and
// links it into KeBugCheckAddRemovePagesCallbackListHead.
// Truth.Registrations gets what it returns.
func (im *Image) Register(module string) (Registration, error) {
	r, err := im.register(module)
	if err != nil {
		return Registration{}, fmt.Errorf("register a callback of %s: %w", module, err)
	}
	im.Truth.Registrations = append(im.Truth.Registrations, r)
	return r, nil
}

func (im *Image) register(module string) (Registration, error) {
	m, ok := im.module(module)
	if !ok {
		d := syntheticDriver(im.machine(), module, nil, stream(im.Config.Seed, 'd'+mix64(uint64(len(im.Truth.Modules)))))
		var err error
		if m, err = im.load(module, d); err != nil {
			return Registration{}, err
		}
	}
	d, err := im.loaded(m)
	if err != nil {
		return Registration{}, err
	}
	component := append([]byte(strings.TrimSuffix(module, path.Ext(module))), 0)
	at, err := d.zeros(recordSize + uint32(len(component)))
	if err != nil {
		return Registration{}, err
	}
	code := slices.IndexFunc(d.sections, func(s section) bool { return s.flags&0x20000000 != 0 })
	if code < 0 {
		return Registration{}, errors.New("it has no code")
	}
	r := Registration{
		Module: module, Record: m.Base + phys.VirtAddr(at), Component: m.Base + phys.VirtAddr(at+recordSize),
		Routine: m.Base + phys.VirtAddr(d.sections[code].rva+0x40),
	}
	return r, im.extend(func(b *builder) {
		b.put64(r.Record+recordRoutine, uint64(r.Routine))
		b.put64(r.Record+recordComponent, uint64(r.Component))
		b.put64(r.Record+recordChecksum, uint64(r.Routine)+reasonRemovePages+uint64(r.Component))
		b.put32(r.Record+recordReason, reasonRemovePages)
		b.put(r.Record+recordState, []byte{stateInserted})
		b.put(r.Component, component)
		b.append(b.symbols["KeBugCheckAddRemovePagesCallbackListHead"], r.Record)
	})
}

// zeros returns the RVA of n bytes that are zero, aligned to 8, the last in
// the driver's data. The section that has the advertised table is left alone
// as long as there is another.
func (d *driverFile) zeros(n uint32) (uint32, error) {
	table, err := d.export(advertSymbol)
	if err != nil {
		return 0, err
	}
	var found uint32
	for _, s := range d.sections {
		const discardable = 0x02000000
		if s.flags&0x80000000 == 0 || s.flags&discardable != 0 || s.size < n {
			continue
		}
		hasTable := table >= s.rva && table < s.rva+s.size
		if hasTable && found != 0 {
			continue
		}
		for at := (s.rva + s.size - n) &^ 7; at >= s.rva; at -= 8 {
			if !slices.ContainsFunc(d.image[at:at+n], func(c byte) bool { return c != 0 }) {
				found = at
				break
			}
		}
	}
	if found == 0 {
		return 0, errors.New("its data has no room for a record")
	}
	return found, nil
}
