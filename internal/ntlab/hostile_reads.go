package ntlab

import (
	"errors"

	"snap/phys"
)

// errBroken is what a page gives that can't be read.
var errBroken = errors.New("the host can't read it")

// A place is a structure that readers look at, and what must come of a guest of which
// the host can't read the page.
type place struct {
	name   string
	at     func(im *Image) phys.Addr
	unread Outcome
}

// placeAt is a place by its address in the System process.
func placeAt(name string, unread Outcome, va func(im *Image) phys.VirtAddr) place {
	return place{name, func(im *Image) phys.Addr {
		at, _ := im.Translate(va(im))
		return at
	}, unread}
}

// tableOf is a page table of a level on the way to an address.
func tableOf(name string, unread Outcome, level int, va func(im *Image) phys.VirtAddr) place {
	return place{name, func(im *Image) phys.Addr {
		at, _ := im.EntryAddr(va(im), level)
		return at.PFN().Addr()
	}, unread}
}

// deref returns the pointer at an address.
func (im *Image) deref(va phys.VirtAddr) phys.VirtAddr {
	var b [8]byte
	_ = im.ReadVirt(va, b[:])
	return phys.VirtAddr(le.Uint64(b[:]))
}

func kernelBase(im *Image) phys.VirtAddr { return im.Truth.KernelBase }

// readPlaces are what a guest is read by. What else lies in a page, Any, decides what
// comes of some.
func readPlaces() []place {
	return []place{
		{"the top-level table", func(im *Image) phys.Addr { return im.Truth.DirectoryTableBase }, Refused},
		tableOf("the kernel's table of level 3", Refused, 3, kernelBase),
		tableOf("the kernel's table of level 2", Refused, 2, kernelBase),
		tableOf("the kernel's table of level 1", Any, 1, kernelBase),
		tableOf("KUSER_SHARED_DATA's table of level 1", Refused, 1, func(*Image) phys.VirtAddr { return kuserKernel }),
		{"KUSER_SHARED_DATA", func(im *Image) phys.Addr { return im.kuser.Addr() }, Refused},
		placeAt("the kernel's header", Refused, kernelBase),
		placeAt("the kernel's exports", Degraded, func(im *Image) phys.VirtAddr {
			return im.Truth.KernelBase + im.deref(im.Truth.KernelBase+peExports)&0xffffffff
		}),
		placeAt("the KDBG", Degraded, func(im *Image) phys.VirtAddr { return im.Truth.KDBG }),
		placeAt("the head of the list of modules", Any, func(im *Image) phys.VirtAddr { return im.Truth.PsLoadedModuleList }),
		placeAt("the head of the list of processes", Any, func(im *Image) phys.VirtAddr { return im.Truth.PsActiveProcessHead }),
		placeAt("the second module", Degraded, func(im *Image) phys.VirtAddr { return im.deref(im.deref(im.Truth.PsLoadedModuleList)) }),
		placeAt("the EPROCESS of System", Refused, func(im *Image) phys.VirtAddr { return im.Truth.SystemProcess }),
		placeAt("the EPROCESS of another process", Degraded, func(im *Image) phys.VirtAddr { return im.Truth.Processes[2].EPROCESS }),
		placeAt("the KPCR of processor 0", Degraded, func(im *Image) phys.VirtAddr { return im.Truth.Processors[0].KPCR }),
		placeAt("the KPCR of processor 1", Degraded, func(im *Image) phys.VirtAddr { return im.Truth.Processors[1].KPCR }),
		placeAt("the context of processor 1", Degraded, func(im *Image) phys.VirtAddr { return im.Truth.Processors[1].Context }),
		placeAt("KiProcessorBlock", Degraded, func(im *Image) phys.VirtAddr { return im.symbols["KiProcessorBlock"] }),
		placeAt("MmPhysicalMemoryBlock", Degraded, func(im *Image) phys.VirtAddr { return im.symbols["MmPhysicalMemoryBlock"] }),
		placeAt("the list of memory", Degraded, func(im *Image) phys.VirtAddr { return im.symbols["*MmPhysicalMemoryBlock"] }),
		placeAt("PsInitialSystemProcess", Any, func(im *Image) phys.VirtAddr { return im.symbols["PsInitialSystemProcess"] }),
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
		{Name: "every second read fails", About: "every second read fails, whatever it is of", Outcome: Refused, Says: "unreadable", Reader: counted(func(n int) bool { return n%2 == 0 })},
		{Name: "reads end", About: "after 200 reads none succeeds", Outcome: Refused, Says: "unreadable", Reader: counted(func(n int) bool { return n > 200 })},
	}
	says := map[Outcome]string{Refused: "unreadable", Degraded: "read"}
	for _, w := range readPlaces() {
		out = append(out, Attack{
			Name: "can't read " + w.name, About: "the page can't be read", Outcome: w.unread, Says: says[w.unread],
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
