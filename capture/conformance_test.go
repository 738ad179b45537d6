package capture

import (
	"bytes"
	"testing"

	"snap/hv"
	"snap/hv/hvtest"
	"snap/internal/ntlab"
	"snap/phys"
)

// copyOf copies what is populated of a memory.
func copyOf(t *testing.T, mem hv.Memory) *memoryCopy {
	t.Helper()
	set, known, err := mem.Populated(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	memory, err := newHostMemory(set.Pages() << phys.PageShift)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newMemoryCopy(memory, mem, set, known)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.fill(t.Context(), mem, 2); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestMemoriesConform holds each memory of this package to what every memory
// must do, over a guest that stands still.
func TestMemoriesConform(t *testing.T) {
	vm := newGuest(t, ntlab.Config{Seed: 61})
	if err := vm.im.Fill(16<<20, ntlab.Mix{Zero: 1, Random: 1}); err != nil {
		t.Fatal(err)
	}
	open := func(t *testing.T) hv.Memory {
		t.Helper()
		mem, err := vm.OpenMemory(t.Context(), hv.MechanismAuto)
		if err != nil {
			t.Fatal(err)
		}
		return mem
	}
	// Every third page of what is populated is of a later copy.
	later := func(t *testing.T, below hv.Memory) *stableMemory {
		t.Helper()
		var over []phys.Run
		for _, r := range vm.im.Populated() {
			for p := r.Base; p < r.End(); p += 3 {
				over = append(over, phys.Run{Base: p, Pages: 1})
			}
		}
		set, err := phys.NewRuns(over...)
		if err != nil {
			t.Fatal(err)
		}
		memory, err := newHostMemory(set.Pages() << phys.PageShift)
		if err != nil {
			t.Fatal(err)
		}
		c, err := newMemoryCopy(memory, below, set, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.fill(t.Context(), open(t), 2); err != nil {
			t.Fatal(err)
		}
		s := &stableMemory{Memory: below}
		if err := s.replace(c); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for name, opened := range map[string]func(t *testing.T) hv.Memory{
		"copy": func(t *testing.T) hv.Memory { return copyOf(t, open(t)) },
		"packed copy": func(t *testing.T) hv.Memory {
			mem := open(t)
			set, known, err := mem.Populated(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c := newMemoryCopyIn(layouts(t, set.Pages())["packed"], mem, set, known)
			if err := c.fill(t.Context(), mem, 2); err != nil {
				t.Fatal(err)
			}
			return c
		},
		"stabilised copy": func(t *testing.T) hv.Memory {
			c := copyOf(t, open(t))
			return closesBoth{later(t, c), c}
		},
		"dear": func(t *testing.T) hv.Memory {
			c := copyOf(t, open(t))
			return heldMemory{newNotedMemory(closesBoth{later(t, dearCopy{c}), c}), &holding{}}
		},
		"noted": func(t *testing.T) hv.Memory {
			c := copyOf(t, open(t))
			n := newNotedMemory(c)
			n.begin(vm.im.Populated())
			return n
		},
		"kept": func(t *testing.T) hv.Memory {
			m := &keptMemory{Memory: copyOf(t, open(t))}
			if err := m.during(func() error {
				return m.ReadPhys(t.Context(), make([]byte, 8<<phys.PageShift), vm.im.Populated()[0].Base.Addr())
			}); err != nil {
				t.Fatal(err)
			}
			return m
		},
		"dear, looked at": func(t *testing.T) hv.Memory {
			return newPageCache(dearCopy{copyOf(t, open(t))})
		},
	} {
		t.Run(name, func(t *testing.T) {
			hvtest.TestMemory(t, opened, hvtest.Options{Want: vm.im})
		})
	}
}

// dearCopy is a copy that says it is dear to read.
type dearCopy struct{ hv.Memory }

func (dearCopy) ReadCost() hv.ReadCost { return hv.ReadCost{Gap: 64 << 10, Most: 4 << 20, Flight: 4} }

func (m dearCopy) Batch() hv.Batch { return hv.BatchOf(m.Memory) }

// closesBoth is a stabilised memory that is alone with what lies below it.
type closesBoth struct {
	*stableMemory
	below hv.Memory
}

func (m closesBoth) Close() error {
	if err := m.stableMemory.Close(); err != nil {
		return err
	}
	return m.below.Close()
}

// TestNotedWhatWasRead: what is noted is what was read last.
func TestNotedWhatWasRead(t *testing.T) {
	vm := newGuest(t, ntlab.Config{Seed: 62})
	page := vm.im.Populated()[0].Base
	n := newNotedMemory(imageMemory{vm.im, vm})
	n.begin(phys.Runs{{Base: page, Pages: 1}})
	read := make([]byte, phys.PageSize)
	if err := n.ReadPhys(t.Context(), read, page.Addr()); err != nil {
		t.Fatal(err)
	}
	if !n.same(page, read) {
		t.Error("a page is not the same as what was read of it")
	}
	if n.same(page, bytes.Repeat([]byte{0xee}, phys.PageSize)) || n.same(page, nil) {
		t.Error("a page is the same as other bytes, or as one that can't be read")
	}
}
