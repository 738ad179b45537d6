package ntlab

import (
	"errors"

	"snap/phys"
)

// errBroken is what a page gives that can't be read.
var errBroken = errors.New("the host can't read it")

// A place is a structure that readers look at.
type place struct {
	name string
	at   func(im *Image) phys.Addr
}

// placeAt is a place by its address in the System process.
func placeAt(name string, va func(im *Image) phys.VirtAddr) place {
	return place{name, func(im *Image) phys.Addr {
		at, _ := im.Translate(va(im))
		return at
	}}
}

// tableOf is a page table of a level on the way to an address.
func tableOf(name string, level int, va func(im *Image) phys.VirtAddr) place {
	return place{name, func(im *Image) phys.Addr {
		at, _ := im.EntryAddr(va(im), level)
		return at.PFN().Addr()
	}}
}

// deref returns the pointer at an address.
func (im *Image) deref(va phys.VirtAddr) phys.VirtAddr {
	var b [8]byte
	_ = im.ReadVirt(va, b[:])
	return phys.VirtAddr(le.Uint64(b[:]))
}

func kernelBase(im *Image) phys.VirtAddr { return im.Truth.KernelBase }

// readPlaces are what must not stop a reader, or not without a word, when it can't be
// read or changes.
func readPlaces() []place {
	return []place{
		{"the top-level table", func(im *Image) phys.Addr { return im.Truth.DirectoryTableBase }},
		tableOf("the kernel's table of level 3", 3, kernelBase),
		tableOf("the kernel's table of level 2", 2, kernelBase),
		tableOf("the kernel's table of level 1", 1, kernelBase),
		tableOf("KUSER_SHARED_DATA's table of level 1", 1, func(*Image) phys.VirtAddr { return kuserKernel }),
		{"KUSER_SHARED_DATA", func(im *Image) phys.Addr { return im.kuser.Addr() }},
		placeAt("the kernel's header", kernelBase),
		placeAt("the kernel's exports", func(im *Image) phys.VirtAddr {
			return im.Truth.KernelBase + im.deref(im.Truth.KernelBase+peExports)&0xffffffff
		}),
		placeAt("the KDBG", func(im *Image) phys.VirtAddr { return im.Truth.KDBG }),
		placeAt("the head of the list of modules", func(im *Image) phys.VirtAddr { return im.Truth.PsLoadedModuleList }),
		placeAt("the head of the list of processes", func(im *Image) phys.VirtAddr { return im.Truth.PsActiveProcessHead }),
		placeAt("the second module", func(im *Image) phys.VirtAddr { return im.deref(im.deref(im.Truth.PsLoadedModuleList)) }),
		placeAt("the EPROCESS of System", func(im *Image) phys.VirtAddr { return im.Truth.SystemProcess }),
		placeAt("the EPROCESS of another process", func(im *Image) phys.VirtAddr { return im.Truth.Processes[2].EPROCESS }),
		placeAt("the KPCR of processor 0", func(im *Image) phys.VirtAddr { return im.Truth.Processors[0].KPCR }),
		placeAt("the KPCR of processor 1", func(im *Image) phys.VirtAddr { return im.Truth.Processors[1].KPCR }),
		placeAt("the context of processor 1", func(im *Image) phys.VirtAddr { return im.Truth.Processors[1].Context }),
		placeAt("KiProcessorBlock", func(im *Image) phys.VirtAddr { return im.symbols["KiProcessorBlock"] }),
		placeAt("MmPhysicalMemoryBlock", func(im *Image) phys.VirtAddr { return im.symbols["MmPhysicalMemoryBlock"] }),
		placeAt("the list of memory", func(im *Image) phys.VirtAddr { return im.symbols["*MmPhysicalMemoryBlock"] }),
		placeAt("PsInitialSystemProcess", func(im *Image) phys.VirtAddr { return im.symbols["PsInitialSystemProcess"] }),
	}
}

// overlaps reports whether n bytes at at have a part of the page of p.
func overlaps(at phys.Addr, n int, p phys.PFN) bool {
	return n > 0 && at.PFN() <= p && (at+phys.Addr(n-1)).PFN() >= p
}

// unreadableAttacks are pages that can't be read, one place in each, and readers that
// fail now and then.
func unreadableAttacks() []Attack {
	reader := func(fails func(im *Image) func(p []byte, at phys.Addr) bool) func(*Image) phys.Reader {
		return func(im *Image) phys.Reader {
			f := fails(im)
			return &changingReader{im, func(p []byte, at phys.Addr) error {
				if f(p, at) {
					return &phys.AccessError{At: at, Len: len(p), Err: errBroken}
				}
				return nil
			}}
		}
	}
	counted := func(f func(n int) bool) func(im *Image) phys.Reader {
		return reader(func(*Image) func([]byte, phys.Addr) bool {
			n := 0
			return func([]byte, phys.Addr) bool {
				n++
				return f(n)
			}
		})
	}
	out := []Attack{
		{Name: "nothing can be read", About: "every read fails", Outcome: Refused, Says: "unreadable", Reader: counted(func(int) bool { return true })},
		{Name: "every second read fails", About: "every second read fails, whatever it is of", Outcome: Any, Reader: counted(func(n int) bool { return n%2 == 0 })},
		{Name: "reads end", About: "after 200 reads none succeeds", Outcome: Any, Reader: counted(func(n int) bool { return n > 200 })},
	}
	for _, w := range readPlaces() {
		out = append(out, Attack{
			Name: "can't read " + w.name, About: "the page can't be read", Outcome: Any,
			Reader: reader(func(im *Image) func([]byte, phys.Addr) bool {
				page := w.at(im).PFN()
				return func(p []byte, at phys.Addr) bool { return overlaps(at, len(p), page) }
			}),
		})
	}
	return out
}

// changingAttacks are structures that change between two reads: with each read of
// their page they are alternately as they were and otherwise.
func changingAttacks() []Attack {
	var out []Attack
	for _, how := range []struct {
		name, about string
		change      func(r *rng, b []byte)
	}{
		{"is zeros now and then", "every second read of the page gives zeros", func(_ *rng, b []byte) { clear(b) }},
		{"is noise now and then", "every second read of the page gives random bytes", func(r *rng, b []byte) { r.fill(b) }},
		{"is noise in parts", "every read of the page gives it with a random word in it", func(r *rng, b []byte) {
			if len(b) >= 8 {
				r.fill(b[r.below(uint64(len(b)/8))*8:][:8])
			}
		}},
	} {
		for _, w := range readPlaces() {
			out = append(out, Attack{
				Name: w.name + " " + how.name, About: how.about, Outcome: Any,
				Reader: func(im *Image) phys.Reader {
					page, n, r := w.at(im).PFN(), 0, stream(im.Config.Seed, 'w')
					return &changingReader{im, func(p []byte, at phys.Addr) error {
						if overlaps(at, len(p), page) {
							if n++; n%2 == 0 {
								from, to := max(at, page.Addr()), min(at+phys.Addr(len(p)), (page+1).Addr())
								how.change(r, p[from-at:to-at])
							}
						}
						return nil
					}}
				},
			})
		}
	}
	return out
}
