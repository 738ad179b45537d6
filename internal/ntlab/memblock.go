package ntlab

import (
	"fmt"

	"snap/phys"
)

// ListMemory makes nt!MmPhysicalMemoryBlock say that runs are the guest's memory,
// whether they are or not. Truth.Runs stays what it was.
func (im *Image) ListMemory(runs []phys.Run) error {
	var pages uint64
	b := make([]byte, 0x10, 0x10+0x10*len(runs))
	for _, r := range runs {
		pages += r.Pages
		b = le.AppendUint64(le.AppendUint64(b, uint64(r.Base)), r.Pages)
	}
	le.PutUint32(b, uint32(len(runs)))
	le.PutUint64(b[8:], pages)
	at, err := im.AllocPages(len(b)>>phys.PageShift + 1)
	if err == nil {
		err = im.WriteVirt(at, b)
	}
	variable, ok := im.symbols["MmPhysicalMemoryBlock"]
	if err == nil && !ok {
		err = fmt.Errorf("the image isn't Windows")
	}
	if err == nil {
		err = im.WriteVirt(variable, le.AppendUint64(nil, uint64(at)))
	}
	if err != nil {
		return fmt.Errorf("list %d runs of memory: %w", len(runs), err)
	}
	im.symbols["*MmPhysicalMemoryBlock"] = at
	return nil
}

// HideMemory makes nt!MmPhysicalMemoryBlock leave out the highest free pages, so
// many as make half of RAM, and returns them. What Windows uses, it lists.
func (im *Image) HideMemory() (phys.Runs, error) {
	free := im.freeRuns()
	var hidden []phys.Run
	for left := im.ram.Pages() / 2; left > 0 && len(free) > 0; free = free[:len(free)-1] {
		r := free[len(free)-1]
		n := min(r.Pages, left)
		hidden = append(hidden, phys.Run{Base: r.End() - phys.PFN(n), Pages: n})
		left -= n
	}
	all, err := phys.NewRuns(hidden...)
	if err != nil {
		return nil, err
	}
	im.alloc.remove(all) // nothing shall come there later, the list itself neither
	windows, err := phys.NewRuns(im.Truth.Runs...)
	if err != nil {
		return nil, err
	}
	return all, im.ListMemory(windows.Minus(all))
}
