package qemu

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"snap/hv"
	"snap/phys"
)

// maxMissing is how many bytes of the configured memory may be out of the guest's
// sight: the VGA window, what firmware shadows below 1 MiB, and the segment that
// q35 machines set aside for SMM (16 MiB unless libvirt's <tseg> says otherwise).
const maxMissing = 64 << 20

// RAMMap is the machine's memory as the guest sees it at one moment, and where it
// is in QEMU's blocks. It changes when memory is plugged or taken away.
type RAMMap struct {
	runs   phys.Runs
	ranges []ramRange // ascending; the same pages as runs
	blocks uint64     // bytes of all of QEMU's blocks, ROMs and video memory included
}

// Runs returns the pages that are memory.
func (m RAMMap) Runs() phys.Runs { return m.runs }

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

// RAMMap asks for the guest's RAM map as it is now. What doesn't add up is an error;
// it is hv.ErrUnsupported if QEMU doesn't tell which part of a device is plugged.
func (g *Guest) RAMMap(ctx context.Context) (RAMMap, error) {
	mtree, err := g.hmp(ctx, "info mtree -f")
	if err != nil {
		return RAMMap{}, err
	}
	blocks, err := g.hmp(ctx, "info ramblock")
	if err != nil {
		return RAMMap{}, err
	}
	sizes, err := qmp[memorySizes](ctx, g, "query-memory-size-summary")
	if err != nil {
		return RAMMap{}, err
	}
	devices, err := qmp[[]memoryDevice](ctx, g, "query-memory-devices")
	if err != nil {
		return RAMMap{}, err
	}
	m, err := buildRAMMap(mtree, blocks, sizes, devices)
	if err != nil {
		return RAMMap{}, fmt.Errorf("RAM map of domain %q: %w: %w", g.o.Name, hv.ErrNotUnderstood, err)
	}
	return m, nil
}

// buildRAMMap takes from the flat view what is the machine's own memory and
// holds it against QEMU's blocks and sizes.
func buildRAMMap(mtree, ramblock string, sizes memorySizes, devices []memoryDevice) (RAMMap, error) {
	view, err := parseMtree(mtree)
	if err != nil {
		return RAMMap{}, err
	}
	blocks, err := parseRAMBlocks(ramblock)
	if err != nil {
		return RAMMap{}, err
	}
	plugged, err := pluggedBlocks(devices)
	if err != nil {
		return RAMMap{}, err
	}
	var m RAMMap
	for _, b := range blocks {
		if m.blocks += b.used; m.blocks < b.used {
			return RAMMap{}, errors.New("RAM blocks are larger than any address space")
		}
	}
	for _, f := range view {
		name := blockName(f.region)
		if (f.kind != "ram" && f.kind != "rom") || (!mainBlock.MatchString(name) && !plugged[name]) {
			continue
		}
		rs, err := wholePages(f, name)
		if err != nil {
			return RAMMap{}, err
		}
		if err := inBlock(f, name, blocks); err != nil {
			return RAMMap{}, err
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
func (m *RAMMap) add(r ramRange) {
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
func (m RAMMap) compareSize(s memorySizes, devices []memoryDevice) error {
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
