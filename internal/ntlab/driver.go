package ntlab

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"snap/phys"
)

// LoadDriver loads a PE file as Windows loads a driver: sections at their
// addresses in 4 KiB pages with the protection that they ask for, base
// relocations applied, imports from ntoskrnl.exe bound where the guest's
// kernel exports them and left alone where not, and an entry at the end of
// PsLoadedModuleList. Nothing of it has run.
//
// The file must be for the image's processor. A file that is malformed is an
// error and changes nothing.
func (im *Image) LoadDriver(name string, file []byte) (Module, error) {
	d, err := parseDriver(file)
	if err == nil && d.machine != im.machine() {
		err = badPE("it is for machine %#x", d.machine.pe)
	}
	if err == nil {
		err = d.bind(im)
	}
	var m Module
	if err == nil {
		m, err = im.load(name, d)
	}
	if err != nil {
		return Module{}, fmt.Errorf("load driver %s: %w", name, err)
	}
	return m, nil
}

// extend runs f as a part of building, and returns its failure.
func (im *Image) extend(f func(b *builder)) (err error) {
	p, err := findProfile(im.Config.Profile)
	if err != nil {
		return err
	}
	if im.Truth.PsLoadedModuleList == 0 {
		return errors.New("the image isn't Windows")
	}
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(failure)
			if !ok {
				panic(r)
			}
			err = f.error
		}
	}()
	f(&builder{Image: im, p: p})
	return nil
}

// load maps a driver behind those that are loaded, and lists it.
func (im *Image) load(name string, d *driverFile) (Module, error) {
	if name == "" || len(name) > 255 || strings.ContainsRune(name, '\\') {
		return Module{}, errors.New("a driver's name has 1 to 255 bytes and no path")
	}
	if _, ok := im.module(name); ok {
		return Module{}, errors.New("a driver of that name is loaded")
	}
	base, err := im.driverBase(d.size())
	if err != nil {
		return Module{}, err
	}
	if err := d.relocate(base); err != nil {
		return Module{}, err
	}
	err = im.extend(func(b *builder) {
		b.mapDriver(base, d)
		b.appendModule(`\SystemRoot\System32\drivers\`+name, base, d)
	})
	if err != nil {
		return Module{}, err
	}
	return im.Truth.Modules[len(im.Truth.Modules)-1], nil
}

// module returns the loaded module of that name, as Windows compares names.
func (im *Image) module(name string) (Module, bool) {
	i := slices.IndexFunc(im.Truth.Modules, func(m Module) bool { return strings.EqualFold(m.Name, name) })
	if i < 0 {
		return Module{}, false
	}
	return im.Truth.Modules[i], true
}

// driverBase chooses the address of a driver: the first room of 64 KiB steps
// behind the driver that was loaded last.
func (im *Image) driverBase(size uint32) (phys.VirtAddr, error) {
	const step = 1 << 16
	if len(im.Truth.Modules) == 0 {
		return 0, errors.New("the image isn't Windows")
	}
	last := im.Truth.Modules[len(im.Truth.Modules)-1]
	base := (last.Base + phys.VirtAddr(last.Size) + step - 1) &^ (step - 1)
	for slices.ContainsFunc(im.Truth.Modules, func(m Module) bool {
		return base < m.Base+phys.VirtAddr(m.Size) && m.Base < base+phys.VirtAddr(size)
	}) {
		base += step
	}
	if !base.Kernel() || !(base + phys.VirtAddr(size)).Kernel() {
		return 0, errors.New("no room behind the other drivers")
	}
	return base, nil
}

// mapDriver gives each section pages of its own. What no section covers
// stays unmapped.
func (b *builder) mapDriver(base phys.VirtAddr, d *driverFile) {
	dtb := b.Truth.DirectoryTableBase
	check(b.mapFresh(dtb, base, uint64(pagesOf(d.headers)), kernelRead))
	b.put(base, d.image[:d.headers])
	for _, s := range d.sections {
		at, end := s.rva, s.rva+pagesOf(s.size)<<phys.PageShift
		check(b.mapFresh(dtb, base+phys.VirtAddr(at), uint64(end-at)>>phys.PageShift, protection(s.flags)))
		b.put(base+phys.VirtAddr(at), d.image[at:end])
	}
}

func pagesOf(bytes uint32) uint32 { return (bytes + phys.PageSize - 1) >> phys.PageShift }

// protection returns the flags of a page of a section: IMAGE_SCN_MEM_EXECUTE
// and IMAGE_SCN_MEM_WRITE decide.
func protection(characteristics uint32) uint64 {
	switch x, w := characteristics&0x20000000 != 0, characteristics&0x80000000 != 0; {
	case x && w:
		return kernelAll
	case x:
		return kernelCode
	case w:
		return kernelData
	}
	return kernelRead
}

// appendModule makes an entry and links it in before the head of
// PsLoadedModuleList.
func (b *builder) appendModule(path string, base phys.VirtAddr, d *driverFile) {
	e := b.placeModuleEntry(path, &peImage{base: base, size: d.size(), entry: d.entry, timestamp: d.timestamp})
	b.put32(e+b.machine().ldrChecksum, d.checksum)
	b.append(b.Truth.PsLoadedModuleList, e)
}

// append links entry in at the end of the list.
func (b *builder) append(head, entry phys.VirtAddr) {
	m := b.machine()
	word := phys.VirtAddr(m.word)
	var blink [8]byte
	check(b.ReadVirt(head+word, blink[:word]))
	last := phys.VirtAddr(m.number(blink[:]))
	if m.word == 4 {
		last = phys.VirtAddr(int64(int32(last)))
	}
	b.putPointer(entry, uint64(head))
	b.putPointer(entry+word, uint64(last))
	b.putPointer(last, uint64(entry))
	b.putPointer(head+word, uint64(entry))
}
