package capture

import (
	"context"
	"slices"
	"strings"
	"testing"

	"snap/header"
	"snap/internal/ntlab"
	"snap/phys"
)

// lackingVM is a guest whose memory is put right before it is looked at the second time.
type lackingVM struct {
	*imageVM
	looks int
	heal  func() error
}

func (v *lackingVM) Registers(ctx context.Context) ([]phys.Registers, error) {
	if v.looks++; v.looks == 2 && v.heal != nil {
		if err := v.heal(); err != nil {
			return nil, err
		}
	}
	return v.imageVM.Registers(ctx)
}

// A guest that lacks what debuggers need is looked at again, since it may have been
// changing, and then is dumped as it is: degraded, which is known beforehand, with a
// header whose values say where they are from.
func TestLackingGuest(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		edit func(im *ntlab.Image) (heal func() error, err error)
		lack string
		kdbg string // origin of the header's field
	}{
		{"KDBG overwritten", func(im *ntlab.Image) (func() error, error) {
			b := make([]byte, len(im.Truth.KDBGPlain))
			if err := im.ReadVirt(im.Truth.KDBG, b); err != nil {
				return nil, err
			}
			heal := func() error { return im.WriteVirt(im.Truth.KDBG, b) }
			return heal, im.WriteVirt(im.Truth.KDBG, make([]byte, len(b)))
		}, "the kernel has no debugger data block (KDBG) that can be used", header.FromNoKDBG},
		{"list of modules broken in the middle", func(im *ntlab.Image) (func() error, error) {
			b := make([]byte, 8)
			at := im.Truth.PsLoadedModuleList
			for range 3 {
				if err := im.ReadVirt(at, b); err != nil {
					return nil, err
				}
				at = phys.VirtAddr(uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
					uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56)
			}
			whole := make([]byte, 8)
			if err := im.ReadVirt(at, whole); err != nil {
				return nil, err
			}
			return func() error { return im.WriteVirt(at, whole) }, im.WriteVirt(at, make([]byte, 8))
		}, "the list of modules is broken", "kernel image, decoded by known plaintext"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			vm := &lackingVM{imageVM: newGuest(t, ntlab.Config{Seed: 330})}
			heal, err := tt.edit(vm.im)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Open(t.Context(), vm, Options{Tries: 3})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			a := s.Analysis
			if why := a.whyDegraded(); !slices.Contains(why, tt.lack) || vm.looks != 3 {
				t.Fatalf("degraded %q after %d looks; want %q after 3", why, vm.looks, tt.lack)
			}
			if !a.Degraded() || !strings.Contains(strings.Join(a.Contents, "\n"), "debuggers") && !strings.Contains(strings.Join(a.Contents, "\n"), "WinDbg") {
				t.Errorf("degraded %v, of its contents %q; want what debuggers can't do", a.Degraded(), a.Contents)
			}
			for _, f := range a.Header.Fields() {
				if f.Name == "KdDebuggerDataBlock" && f.From != tt.kdbg || f.Set && f.From == "" {
					t.Errorf("%s is from %q; want an origin, of the KDBG's %q", f.Name, f.From, tt.kdbg)
				}
			}

			vm.looks, vm.heal = 0, heal
			again, err := Open(t.Context(), vm, Options{Tries: 3})
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if why := again.Analysis.whyDegraded(); len(why) > 0 || vm.looks != 2 {
				t.Errorf("of a guest that was changing: degraded %q after %d looks; want nothing lacking after 2", why, vm.looks)
			}
		})
	}
}
