package capture

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"snap/exclude"
	"snap/internal/ntlab"
	"snap/phys"
)

// TestOperatorsInVain: what an operator asks out and can't be left out is an error
// before the guest is held or anything written, in every mode; one that is in vain
// in part is said to be.
func TestOperatorsInVain(t *testing.T) {
	vm := newGuest(t, ntlab.Config{Seed: 81})
	physical := func(at phys.Addr, pages uint64) exclude.Request {
		return exclude.Request{By: "--exclude", Reason: exclude.Operator, Flags: exclude.FlagPhysical, Address: uint64(at), Pages: pages}
	}
	virtual := func(at phys.VirtAddr, pages uint64) exclude.Request {
		return exclude.Request{By: "--exclude", Reason: exclude.Operator, Flags: exclude.FlagVirtual, Address: uint64(at), Pages: pages}
	}
	free := vm.im.Free()[0].Base.Addr()
	kdbg, ok := vm.im.Translate(vm.im.Truth.KDBG)
	if !ok {
		t.Fatal("the KDBG is not mapped")
	}
	// Behind the last page of a driver's image nothing is mapped.
	last := vm.im.Truth.Modules[len(vm.im.Truth.Modules)-1]
	edge := last.Base.Page()
	for _, mapped := vm.im.Translate(edge); mapped; _, mapped = vm.im.Translate(edge) {
		edge += phys.PageSize
	}
	const good = false
	for _, tt := range []struct {
		name     string
		requests []exclude.Request
		fails    bool
		warns    bool
	}{
		{"memory", []exclude.Request{physical(free, 2)}, good, false},
		{"beyond all memory", []exclude.Request{physical(1<<40, 1)}, true, false},
		{"a hole", []exclude.Request{physical(0xfe00_0000, 1)}, true, false},
		{"not mapped", []exclude.Request{virtual(0xffff_8000_0000_0000, 3)}, true, false},
		{"of the user half, not mapped", []exclude.Request{virtual(0x10_0000_0000, 1)}, true, false},
		{"what a debugger needs", []exclude.Request{physical(kdbg, 1)}, true, false},
		{"one of two", []exclude.Request{physical(free, 1), physical(1<<40, 1)}, true, false},
		{"in part", []exclude.Request{virtual(edge-phys.PageSize, 2)}, good, true},
	} {
		for _, mode := range []Mode{Pause{}, Live{}} {
			j := &job{vm: vm, Options: Options{Mode: mode, MemoryCopy: spoolSize, MaxChanged: &ChangeLimit{Share: 1}}}
			j.Look.Exclusion.Requests = tt.requests
			var out bytes.Buffer
			holds := vm.holds
			res, err := j.take(t.Context(), &out)
			if errors.Is(err, ErrNotExcluded) != tt.fails || (err != nil) != tt.fails {
				t.Errorf("%s, mode %s: error %v; want one of class ErrNotExcluded: %v", tt.name, mode.Name(), err, tt.fails)
				continue
			}
			if tt.fails {
				if out.Len() > 0 || vm.holds != holds {
					t.Errorf("%s, mode %s: %d bytes were written, and the guest paused %d times", tt.name, mode.Name(), out.Len(), vm.holds-holds)
				}
				continue
			}
			said := strings.Contains(strings.Join(res.Manifest.Warnings, "\n"), "nothing of them to leave out")
			if said != tt.warns || res.Analysis.Excluded == 0 {
				t.Errorf("%s, mode %s: %d pages stay out, warnings %q", tt.name, mode.Name(), res.Analysis.Excluded, res.Manifest.Warnings)
			}
		}
	}
}
