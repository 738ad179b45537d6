package guest_test

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// TestVBS: a secure kernel is seen by the process that stands for it, Credential Guard
// beside it by its own, and processors in the hypervisor by their page tables. A
// program with such a name is none of it.
func TestVBS(t *testing.T) {
	const name = 0x5A8 // EPROCESS.ImageFileName of 19041 to 19045 (public ntkrnlmp symbols)
	const peb = 0x550  // EPROCESS.Peb
	named := func(im *ntlab.Image, image string) phys.VirtAddr {
		i := slices.IndexFunc(im.Truth.Processes, func(p ntlab.Process) bool { return p.Name == image })
		if i < 0 {
			t.Fatalf("no process %q in the lab's", image)
		}
		return im.Truth.Processes[i].EPROCESS
	}
	write := func(im *ntlab.Image, at phys.VirtAddr, b []byte) {
		if err := im.WriteVirt(at, b); err != nil {
			t.Fatal(err)
		}
	}
	rename := func(from, to string) func(*ntlab.Image) {
		return func(im *ntlab.Image) {
			write(im, named(im, from)+name, append([]byte(to), make([]byte, 15-len(to))...))
		}
	}
	tests := []struct {
		name                    string
		config                  ntlab.Config
		change                  func(*ntlab.Image)
		secure, credentialGuard bool
		inHypervisor            int
	}{
		{"nothing", ntlab.Config{}, nil, false, false, 0},
		{"in user mode with KPTI", ntlab.Config{KPTI: true, UserMode: true, VBS: true}, nil, true, true, 0},
		{"a hypervisor alone", ntlab.Config{Nested: true}, nil, false, false, 3},
		{"all of it", ntlab.Config{Nested: true, VBS: true}, nil, true, true, 3},
		{"Windows on all processors", ntlab.Config{VBS: true}, nil, true, true, 0},
		{"5-level paging", ntlab.Config{VBS: true, Nested: true, LA57: true}, nil, true, true, 3},
		{"without Credential Guard", ntlab.Config{VBS: true}, rename("LsaIso.exe", "lsaiso-2.exe"), true, false, 0},
		{"a program of that name", ntlab.Config{}, rename("explorer.exe", "Secure System"), false, false, 0},
		{"programs of both names", ntlab.Config{}, func(im *ntlab.Image) {
			rename("explorer.exe", "Secure System")(im)
			rename("spoolsv.exe", "LsaIso.exe")(im)
		}, false, false, 0},
		{"with a PEB", ntlab.Config{VBS: true}, func(im *ntlab.Image) {
			write(im, named(im, "Secure System")+peb, binary.LittleEndian.AppendUint64(nil, 0x7FF000))
		}, false, false, 0},
		{"VMXE of another hypervisor's", ntlab.Config{}, func(im *ntlab.Image) {
			for i := range im.Registers() {
				im.Registers()[i].CR4 |= 1 << 13
			}
		}, false, false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.config.Memory, tt.config.Seed = 128<<20, 51
			im := build(t, tt.config)
			if tt.change != nil {
				tt.change(im)
			}
			s, err := guest.Discover(t.Context(), im, im.RAM(), im.Registers())
			if err != nil {
				t.Fatal(err)
			}
			processes, err := s.Processes(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			v := s.FindVBS(t.Context(), im.Registers(), processes)
			if v.SecureKernel.Value != tt.secure || v.CredentialGuard.Value != tt.credentialGuard || len(v.InHypervisor) != tt.inHypervisor {
				t.Errorf("FindVBS = %+v; want a secure kernel %v, Credential Guard %v, %d in the hypervisor", v, tt.secure, tt.credentialGuard, tt.inHypervisor)
			}
			if seen := tt.secure || tt.inHypervisor > 0; v.Seen() != seen {
				t.Errorf("Seen() = %v; want %v", v.Seen(), seen)
			}
			if from := v.SecureKernel.From; strings.HasPrefix(from, "process Secure System, PID ") != tt.secure {
				t.Errorf("the secure kernel is known from %q", from)
			}
			if from := v.CredentialGuard.From; strings.HasPrefix(from, "process LsaIso.exe, PID ") != tt.credentialGuard {
				t.Errorf("Credential Guard is known from %q", from)
			}
		})
	}
}

// TestVBSWithBrokenList: what was read of a list that is broken counts, and the error
// says that it wasn't all.
func TestVBSWithBrokenList(t *testing.T) {
	im := build(t, ntlab.Config{Memory: 128 << 20, Seed: 52, VBS: true})
	const links = 0x448 // EPROCESS.ActiveProcessLinks
	if err := im.WriteVirt(im.Truth.Processes[4].EPROCESS+links, make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	s, err := guest.Discover(t.Context(), im, im.RAM(), im.Registers())
	if err != nil {
		t.Fatal(err)
	}
	processes, err := s.Processes(t.Context())
	v := s.FindVBS(t.Context(), nil, processes)
	if err == nil || !v.SecureKernel.Value || v.CredentialGuard.Value {
		t.Errorf("FindVBS = %+v, %v; want a secure kernel, and an error", v, err)
	}
}
