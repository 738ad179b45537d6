package libvirt

import (
	"context"
	"fmt"
	"strings"

	"snap/hv"
	"snap/phys"
)

// maxMissing is how many bytes of the configured memory may be out of the guest's
// sight: the VGA window, what firmware shadows below 1 MiB, and the segment that
// q35 machines set aside for SMM (16 MiB unless libvirt's <tseg> says otherwise).
const maxMissing = 64 << 20

// ramMap is the machine's memory as the guest sees it.
type ramMap struct {
	runs   phys.Runs
	ranges []ramRange // ascending; the same pages as runs
}

// ramRange is a run of pages that lie in one piece in a block of QEMU's.
type ramRange struct {
	run    phys.Run
	block  string
	offset uint64 // in the block, bytes
}

// memorySizes is what QMP query-memory-size-summary returns, in bytes.
type memorySizes struct {
	Base    uint64 `json:"base-memory"`
	Plugged uint64 `json:"plugged-memory"`
}

// memoryDevice is an entry of QMP query-memory-devices. Sizes are in bytes.
type memoryDevice struct {
	Type string `json:"type"`
	Data struct {
		ID      string `json:"id"`
		Memdev  string `json:"memdev"`
		Size    uint64 `json:"size"`
		MaxSize uint64 `json:"max-size"`
	} `json:"data"`
}

// RAM returns the domain's RAM map as it is now.
func (d *Domain) RAM(ctx context.Context) (phys.Runs, error) {
	m, err := d.ramMap(ctx)
	return m.runs, err
}

func (d *Domain) ramMap(ctx context.Context) (ramMap, error) {
	mtree, err := d.hmp(ctx, "info mtree -f")
	if err != nil {
		return ramMap{}, err
	}
	blocks, err := d.hmp(ctx, "info ramblock")
	if err != nil {
		return ramMap{}, err
	}
	sizes, err := qmp[memorySizes](ctx, d, "query-memory-size-summary")
	if err != nil {
		return ramMap{}, err
	}
	devices, err := qmp[[]memoryDevice](ctx, d, "query-memory-devices")
	if err != nil {
		return ramMap{}, err
	}
	m, err := buildRAMMap(mtree, blocks, sizes, devices)
	if err != nil {
		return ramMap{}, fmt.Errorf("RAM map of domain %q: %w", d.dom.Name, err)
	}
	return m, nil
}

// buildRAMMap takes from the flat view what is the machine's own memory and
// holds it against QEMU's blocks and sizes.
func buildRAMMap(mtree, ramblock string, sizes memorySizes, devices []memoryDevice) (ramMap, error) {
	view, err := parseMtree(mtree)
	if err != nil {
		return ramMap{}, err
	}
	blocks, err := parseRAMBlocks(ramblock)
	if err != nil {
		return ramMap{}, err
	}
	plugged, err := pluggedBlocks(devices)
	if err != nil {
		return ramMap{}, err
	}
	var m ramMap
	for _, f := range view {
		name := blockName(f.region)
		if (f.kind != "ram" && f.kind != "rom") || (!mainBlock.MatchString(name) && !plugged[name]) {
			continue
		}
		rs, err := wholePages(f, name)
		if err != nil {
			return ramMap{}, err
		}
		if err := inBlock(f, name, blocks); err != nil {
			return ramMap{}, err
		}
		for _, r := range rs {
			m.add(r)
		}
	}
	for _, r := range m.ranges {
		m.runs = m.runs.Union(phys.Runs{r.run})
	}
	return m, m.compareSize(sizes, devices)
}

// add appends r, or lets the last range grow: below 1 MiB QEMU shows one block in
// many pieces, writable and not.
func (m *ramMap) add(r ramRange) {
	if n := len(m.ranges); n > 0 {
		last := &m.ranges[n-1]
		if last.run.End() == r.run.Base && last.block == r.block && last.offset+last.run.Size() == r.offset {
			last.run.Pages += r.run.Pages
			return
		}
	}
	m.ranges = append(m.ranges, r)
}

// pluggedBlocks returns the ids of backends that memory devices use as RAM.
// Non-volatile devices are none of the operating system's RAM.
func pluggedBlocks(devices []memoryDevice) (map[string]bool, error) {
	ids := make(map[string]bool)
	for _, dev := range devices {
		id := dev.Data.Memdev[strings.LastIndexByte(dev.Data.Memdev, '/')+1:]
		switch dev.Type {
		case "dimm":
			ids[id] = true
		case "virtio-mem":
			if dev.Data.Size != 0 && dev.Data.Size != dev.Data.MaxSize {
				return nil, fmt.Errorf("virtio-mem device %s has %d of %d bytes plugged and QEMU doesn't say which: %w",
					dev.Data.ID, dev.Data.Size, dev.Data.MaxSize, hv.ErrUnsupported)
			}
			if dev.Data.Size != 0 {
				ids[id] = true
			}
		}
	}
	return ids, nil
}

// wholePages returns the pages of f without those of the VGA window.
func wholePages(f flatRange, name string) ([]ramRange, error) {
	if f.first%phys.PageSize != 0 || (f.last+1)%phys.PageSize != 0 || f.offset%phys.PageSize != 0 {
		return nil, fmt.Errorf("flat view: %s at %#x-%#x is not made of whole pages", f.region, f.first, f.last)
	}
	run := phys.Run{Base: phys.Addr(f.first).PFN(), Pages: (f.last - f.first + 1) >> phys.PageShift}
	if !run.Valid() {
		return nil, fmt.Errorf("flat view: %s at %#x-%#x is outside of physical memory", f.region, f.first, f.last)
	}
	var out []ramRange
	for _, r := range (phys.Runs{run}).Minus(vgaWindow) {
		out = append(out, ramRange{r, name, f.offset + uint64(r.Base-run.Base)<<phys.PageShift})
	}
	return out, nil
}

// inBlock checks that f lies within the used part of the block that it names.
func inBlock(f flatRange, name string, blocks []block) error {
	for _, b := range blocks {
		if b.name[strings.LastIndexByte(b.name, '/')+1:] != name {
			continue
		}
		if size := f.last - f.first + 1; f.offset > b.used || size > b.used-f.offset {
			return fmt.Errorf("flat view: %s at %#x-%#x, offset %#x, exceeds the block's %#x bytes",
				f.region, f.first, f.last, f.offset, b.used)
		}
		return nil
	}
	return fmt.Errorf("flat view: %s at %#x is in no RAM block", f.region, f.first)
}

// compareSize holds the map against the size that the machine was given.
// QEMU counts persistent memory devices as plugged too.
func (m ramMap) compareSize(s memorySizes, devices []memoryDevice) error {
	plugged := s.Plugged
	for _, dev := range devices {
		if dev.Type == "nvdimm" || dev.Type == "virtio-pmem" {
			plugged -= min(plugged, dev.Data.Size)
		}
	}
	total := s.Base + plugged
	got := m.runs.Pages() << phys.PageShift
	if total < s.Base || got > total || total-got > maxMissing {
		return fmt.Errorf("flat view shows %d bytes of RAM, but the machine has %d+%d", got, s.Base, plugged)
	}
	return nil
}
