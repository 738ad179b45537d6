package guest_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// variant is a way in which a machine, or Windows on it, can be made.
type variant struct {
	name string
	ntlab.Config
	// What leads to the page tables by the processors' registers: "vCPU 0 CR3" if
	// empty.
	by string
	// Warnings that tell what is so, by their beginning. Each must come, and no
	// other.
	warns []string
}

// variants are layouts that Windows is seen in.
func variants() []variant {
	const stub = "low stub at 0x"
	const scan = "self-map scan at 0x"
	c := func(set func(*ntlab.Config)) ntlab.Config {
		c := ntlab.Config{Memory: 128 * mib, CPUs: 2}
		set(&c)
		return c
	}
	all := []variant{
		{name: "random self-map", Config: c(func(*ntlab.Config) {})},
		{name: "fixed self-map", Config: c(func(c *ntlab.Config) { c.Profile = "ws2003sp1-x64" })},
		{name: "dummy self-map", Config: c(func(c *ntlab.Config) { c.DummySelfMap = true })},
		{name: "user CR3s", Config: c(func(c *ntlab.Config) { c.KPTI, c.UserMode = true, true }), by: "vCPU 0 KPRCB"},
		{name: "kernel by 4 KiB pages", Config: c(func(c *ntlab.Config) { c.SmallPages = true })},
		{name: "kernel at a multiple of 4 KiB", Config: c(func(c *ntlab.Config) { c.UnalignedKernel = true })},
		{name: "tables above 16 MiB", Config: c(func(c *ntlab.Config) { c.TablesAbove = 16 * mib })},
		{name: "tables above 96 MiB", Config: c(func(c *ntlab.Config) { c.TablesAbove = 96 * mib })},
		{name: "one processor", Config: c(func(c *ntlab.Config) { c.CPUs = 1 })},
		{name: "65 processors", Config: c(func(c *ntlab.Config) { c.CPUs = 65 })},
		{name: "288 processors", Config: c(func(c *ntlab.Config) { c.CPUs, c.Memory = 288, 512*mib })},
		{name: "as many processors as Windows takes", Config: c(func(c *ntlab.Config) { c.Profile, c.CPUs = "ws2003sp1-x64", 64 })},
		{name: "as many processors as Windows 7 takes", Config: c(func(c *ntlab.Config) { c.Profile, c.CPUs, c.Memory = "nt-7601", 256, 512*mib })},
		{name: "i440fx with memory above 4 GiB", Config: c(func(c *ntlab.Config) { c.Machine, c.Memory = "i440fx", 5*gib })},
		{name: "q35 with memory above 4 GiB", Config: c(func(c *ntlab.Config) { c.Memory = 5 * gib })},
		{name: "plugged memory", Config: c(func(c *ntlab.Config) { c.HotPlug = 256 * mib })},
		{name: "memory that can't be read", Config: c(func(c *ntlab.Config) { c.Unreadable = 8 * mib })},
		{name: "1 TiB", Config: c(func(c *ntlab.Config) { c.Memory = 1 << 40 })},
		{
			name: "all in a hypervisor inside", Config: c(func(c *ntlab.Config) { c.Nested = true }), by: stub,
			warns: []string{"processor 0: no vCPU holds", "processor 1: no vCPU holds", "vCPU 0 is none", "vCPU 1 is none"},
		},
		{
			name: "all in a hypervisor inside, no stub", Config: c(func(c *ntlab.Config) { c.Nested, c.NoLowStub = true, true }), by: scan,
			warns: []string{"processor 0: no vCPU holds", "processor 1: no vCPU holds", "vCPU 0 is none", "vCPU 1 is none"},
		},
	}
	for _, v := range slices.Clone(all) {
		v.name += ", 5 levels"
		v.LA57 = true
		if v.Possible() {
			all = append(all, v)
		}
	}
	all = append(all, variant{
		name: "kernel elsewhere, 5 levels", Config: c(func(c *ntlab.Config) { c.LA57, c.FarKernel, c.KPTI = true, true, true }),
	})
	for i := range all {
		all[i].Seed = 700 + uint64(i)
	}
	return all
}

// Each variant is found by its processors' registers, by the low stub, and by a scan
// of RAM, and read as it is.
func TestVariants(t *testing.T) {
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			im := build(t, v.Config)
			for _, by := range []struct {
				cpus []phys.Registers
				stub bool
				want string
			}{
				{im.Registers(), true, v.by},
				{nil, true, "low stub at 0x"},
				{nil, false, "self-map scan at 0x"},
			} {
				if by.want == "" {
					by.want = "vCPU 0 CR3"
				}
				var mem phys.Reader = im
				if im.Truth.LowStub == 0 && by.stub && by.cpus == nil {
					continue
				}
				if !by.stub {
					mem = blank{im, im.Truth.LowStub.PFN()}
				}
				s, err := guest.Discover(t.Context(), mem, im.RAM(), by.cpus)
				if err != nil {
					t.Errorf("Discover by %s failed: %v", by.want, err)
					continue
				}
				if !strings.HasPrefix(s.Witness, by.want) {
					t.Errorf("Discover came by %q; want %q", s.Witness, by.want)
				}
				if levels := s.Space.Paging().Levels(); levels == 5 != v.LA57 {
					t.Errorf("%d levels of page tables", levels)
				}
				if by.cpus != nil {
					s.Warnings = without(t, s.Warnings, v.warns)
				}
				checkSystem(t, im, s, by.cpus != nil && v.warns == nil)
			}
		})
	}
}

// blank is a guest's memory in which a page is zeros.
type blank struct {
	phys.Reader
	page phys.PFN
}

func (b blank) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	if err := b.Reader.ReadPhys(ctx, p, at); err != nil {
		return err
	}
	from, end := max(at, b.page.Addr()), min(at+phys.Addr(len(p)), b.page.Addr()+phys.PageSize)
	if from < end {
		clear(p[from-at : end-at])
	}
	return nil
}

// without takes the warnings that begin as expected out of those that came.
func without(t *testing.T, got, expected []string) []string {
	t.Helper()
	got = slices.Clone(got)
	for _, want := range expected {
		i := slices.IndexFunc(got, func(s string) bool { return strings.HasPrefix(s, want) })
		if i < 0 {
			t.Errorf("warnings %q; want one that begins with %q", got, want)
			continue
		}
		got = slices.Delete(got, i, i+1)
	}
	if len(got) == 0 {
		return nil
	}
	return got
}
