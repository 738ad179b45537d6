package capture

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/dump"
	"snap/hv"
	"snap/hv/file"
	"snap/internal/ntlab"
	"snap/manifest"
	"snap/store"
)

// TestSecureKernelTold: that a guest runs a secure kernel is said of every dump of it,
// and whether its memory is in the file as far as it is known: of a dump that snap
// takes it is, of a file it depends on who made it, and a conversion knows what its
// source knew.
func TestSecureKernelTold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	vm := newGuest(t, ntlab.Config{Seed: 81, Memory: 64 << 20, VBS: true})
	taken := takeTo(t, vm, at("taken.dmp.zst"), Options{Mode: Pause{}, MemoryCopy: 1 << 30})

	core, err := os.Create(at("guest.elf"))
	if err != nil {
		t.Fatal(err)
	}
	defer core.Close()
	if err := vm.im.WriteELFCore(core); err != nil {
		t.Fatal(err)
	}
	src, err := file.Open(t.Context(), core.Name(), file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	made, err := Convert(t.Context(), src, hv.Identity{Name: "core"}, store.Folder(dir, store.Options{}), "core.dmp.zst", Options{Manifest: true, Tool: "test"})
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, at("taken.dmp.zst"), at("bare.dmp"), dump.CompressionNone, nil, "")

	inside, err := ntlab.Build(ntlab.Config{Seed: 81, Memory: 64 << 20, VBS: true, Nested: true})
	if err != nil {
		t.Fatal(err)
	}
	nested, err := Analyze(t.Context(), inside, inside.RAM(), inside.Registers(), LookOptions{})
	if err != nil {
		t.Fatal(err)
	}
	none := newGuest(t, ntlab.Config{Seed: 82, Memory: 64 << 20})
	for _, tt := range []struct {
		name  string
		m     *manifest.Manifest
		vtl1  manifest.VTL1
		vcpus int
		warns string
	}{
		{"taken", taken.Manifest, manifest.VTL1Held, 0, "the file holds memory of it, which no dump made by Windows does, with what Windows itself can't read, the credentials that Credential Guard keeps (process LsaIso.exe, PID "},
		{"of a core", made.Manifest, manifest.VTL1Unsure, 0, "if its memory was read from outside of the guest, the file holds what Windows itself can't read"},
		{"converted", repackTo(t, at("taken.dmp.zst"), at("again.dmp.zst"), dump.CompressionZstd).Manifest, manifest.VTL1Held, 0, "the source's account warns"},
		{"without an account", repackTo(t, at("bare.dmp"), at("bare.dmp.zst"), dump.CompressionZstd).Manifest, manifest.VTL1Unsure, 0, ""},
		{"in its hypervisor", Describe(nested), manifest.VTL1Held, len(inside.Registers()), ""},
		{"none", takeTo(t, none, at("none.dmp.zst"), Options{Mode: Pause{}, MemoryCopy: 1 << 30}).Manifest, "", 0, ""},
	} {
		m := tt.m
		if m.VTL1 != tt.vtl1 || m.ExitCode != 0 {
			t.Errorf("%s: VTL1 is %q, exit code %d; want %q, 0", tt.name, m.VTL1, m.ExitCode, tt.vtl1)
		}
		if got := strings.Join(m.Warnings, "\n"); !strings.Contains(got, tt.warns) || tt.vtl1 == "" && strings.Contains(got, "VTL1") {
			t.Errorf("%s: warnings %q; want %q", tt.name, got, tt.warns)
		}
		if tt.vtl1 == "" {
			if m.Guest.VBS != nil {
				t.Errorf("%s: VBS is %+v", tt.name, m.Guest.VBS)
			}
			continue
		}
		v := *m.Guest.VBS
		if !strings.HasPrefix(v.SecureKernelFrom, "process Secure System, PID ") || !strings.HasPrefix(v.CredentialGuardFrom, "process LsaIso.exe, PID ") {
			t.Errorf("%s: VBS is known from %q and %q", tt.name, v.SecureKernelFrom, v.CredentialGuardFrom)
		}
		v.SecureKernelFrom, v.CredentialGuardFrom = "", ""
		if diff := cmp.Diff(manifest.VBS{SecureKernel: true, CredentialGuard: true, HypervisorVCPUs: tt.vcpus}, v); diff != "" {
			t.Errorf("%s: VBS differs (-want +got):\n%s", tt.name, diff)
		}
		if tt.name != "taken" && tt.name != "of a core" {
			continue
		}
		sameInsideAndBeside(t, m.Output)
	}
}
