package capture

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"snap/exclude"
	"snap/internal/ntlab"
	"snap/phys"
)

// TestUnusableBlock demands a dump of all RAM, and that it is said, of every guest
// whose list of memory is no such list. One that is in order, but leaves out what
// Windows runs on, is a lie.
func TestUnusableBlock(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]bool{
		"run count": false, "run that wraps": false, "runs overlap": false, "runs unsorted": false, "page count": false,
		"empty runs": false, "no runs": false, "foreign runs": false, "many single pages": false,
		"half of memory": true, "single pages": true,
	} {
		t.Run(name, func(t *testing.T) {
			vm := newGuest(t, ntlab.Config{Seed: 91})
			edit(t, vm.im, name)
			d := mustTake(t, vm, LookOptions{})
			d.comparePages(t, vm.im, vm.im.RAM().Minus(phys.Runs{{Base: 0, Pages: 1}}))
			a := d.res.Analysis
			if a.Degraded() != lie || a.Memory.Hidden != nil || d.res.Manifest.Pages.Hidden != 0 {
				t.Errorf("degraded: %v; hidden: %v; want %v, and all RAM in the dump", a.Degraded(), a.Memory.Hidden, lie)
			}
			if said := strings.Join(d.res.Contents, "\n"); !strings.Contains(said, "the dump holds all RAM instead") {
				t.Errorf("said of the contents: %q; want that all RAM is dumped", said)
			}
		})
	}
}

// edit does one of ntlab's attacks.
func edit(t *testing.T, im *ntlab.Image, name string) {
	t.Helper()
	all := ntlab.Attacks()
	i := slices.IndexFunc(all, func(a ntlab.Attack) bool { return a.Name == name })
	if i < 0 {
		t.Fatalf("no attack %q", name)
	}
	if err := all[i].Edit(im); err != nil {
		t.Fatal(err)
	}
}

// TestHiddenMemory demands of a guest that lists half of its memory that the dump
// of what it lists is taken, and says how much isn't in it; and that all of it is
// in one of all RAM, from which pages can be left out like any other.
func TestHiddenMemory(t *testing.T) {
	t.Parallel()
	vm := newGuest(t, ntlab.Config{Seed: 92})
	hidden, err := vm.im.HideMemory()
	if err != nil {
		t.Fatal(err)
	}
	secret := bytes.Repeat([]byte("a page that nobody lists, "), 100)
	at := hidden[len(hidden)/2].Base.Addr()
	if err := vm.im.WritePhys(at+0x123, secret); err != nil {
		t.Fatal(err)
	}
	ram := vm.im.RAM()
	listed := windowsPages(t, vm.im).Minus(hidden)
	unlisted := ram.Minus(listed).Pages()
	request := exclude.Request{By: "--exclude", Reason: exclude.Operator, Flags: exclude.FlagPhysical, Address: uint64(at), Pages: 1}

	for _, tt := range []struct {
		name     string
		look     LookOptions
		pages    phys.Runs
		hidden   uint64
		degraded bool
	}{
		{"what it lists", LookOptions{}, listed, unlisted, true},
		{"what it lists, with a bitmap", LookOptions{Format: FormatBitmap}, listed, unlisted, true},
		{"all RAM", LookOptions{AllRAM: true}, ram, 0, false},
		{"all RAM, with a bitmap", LookOptions{AllRAM: true, Format: FormatBitmap}, ram, 0, false},
		{
			"all RAM but a page",
			LookOptions{AllRAM: true, Exclusion: Exclusion{Requests: []exclude.Request{request}}},
			ram.Minus(phys.Runs{{Base: at.PFN(), Pages: 1}}), 0, false,
		},
	} {
		for _, mode := range []Mode{Pause{}, Live{}} {
			t.Run(tt.name+"/"+mode.Name(), func(t *testing.T) {
				d, err := takeBy(t, &job{vm: vm, Options: Options{Mode: mode, Look: tt.look, MemoryCopy: 1 << 30}})
				if err != nil {
					t.Fatal(err)
				}
				d.comparePages(t, vm.im, tt.pages)
				if has, want := holds(t, d.plain, secret), tt.pages.Has(at.PFN()); has != want {
					t.Errorf("the hidden page's contents are in the dump: %v; want %v", has, want)
				}
				p := d.res.Manifest.Pages
				if p.RAM != ram.Pages() || p.Unlisted != unlisted || p.Hidden != tt.hidden {
					t.Errorf("the account has %d pages of RAM, %d not listed, %d of them hidden; want %d, %d, %d",
						p.RAM, p.Unlisted, p.Hidden, ram.Pages(), unlisted, tt.hidden)
				}
				said := strings.Contains(strings.Join(d.res.Contents, "\n"), "--all-ram")
				if got := d.res.Analysis.Degraded(); got != tt.degraded || said != tt.degraded {
					t.Errorf("degraded: %v, said: %v; want %v", got, said, tt.degraded)
				}
			})
		}
	}
}

// TestHiddenAndLimit: what is hidden and what stays out together are held against
// the limit, and said.
func TestHiddenAndLimit(t *testing.T) {
	vm := newGuest(t, ntlab.Config{Seed: 93})
	if _, err := vm.im.HideMemory(); err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[uint64]bool{10: true, 90: false} {
		a, err := Analyze(t.Context(), vm.im, vm.im.RAM(), vm.im.Registers(), LookOptions{Exclusion: Exclusion{Limit: Limit{Percent: limit}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(strings.Join(a.Contents, "\n"), "--max-excluded"); got != want {
			t.Errorf("with a limit of %d %%, said of the contents: %q; want that it is above the limit: %v", limit, a.Contents, want)
		}
	}
}

// TestSuspicious: firmware's share is none, one page more is.
func TestSuspicious(t *testing.T) {
	const mib = 1 << 20 >> phys.PageShift
	low := func(n phys.PFN) phys.Run { return phys.Run{Base: 0, Pages: uint64(n)} }
	high := func(n phys.PFN) phys.Run { return phys.Run{Base: 4096 * mib, Pages: uint64(n)} }
	top := func(r phys.Run, n phys.PFN) phys.Run { return phys.Run{Base: r.End() - n, Pages: uint64(n)} }
	video := phys.Run{Base: 0xfd000, Pages: 16 * mib}
	for _, tt := range []struct {
		name        string
		ram, hidden []phys.Run
		want        bool
	}{
		{"nothing", []phys.Run{low(256 * mib)}, nil, false},
		{"a sixteenth of a small guest", []phys.Run{low(256 * mib)}, []phys.Run{top(low(256*mib), 16*mib)}, false},
		{"a page more", []phys.Run{low(256 * mib)}, []phys.Run{top(low(256*mib), 16*mib+1)}, true},
		{"64 MiB of a large one", []phys.Run{low(2048 * mib), high(8192 * mib)}, []phys.Run{top(low(2048*mib), 64*mib)}, false},
		{"a page more, elsewhere", []phys.Run{low(2048 * mib), high(8192 * mib)}, []phys.Run{top(low(2048*mib), 64*mib), top(high(8192*mib), 1)}, true},
		{"a hot-plugged module", []phys.Run{low(2048 * mib), high(8192 * mib)}, []phys.Run{top(high(8192*mib), 1024*mib)}, true},
		{"all above 4 GiB", []phys.Run{low(2048 * mib), high(8192 * mib)}, []phys.Run{high(8192 * mib)}, true},
		{"a graphics card's memory", []phys.Run{low(256 * mib), video}, []phys.Run{video}, false},
		{"the hole of a flat image", []phys.Run{low(5120 * mib)}, []phys.Run{{Base: 2048 * mib, Pages: 2048 * mib}}, false},
		{"more of a flat image", []phys.Run{low(5120 * mib)}, []phys.Run{{Base: 2048 * mib, Pages: 2048 * mib}, {Base: 4608 * mib, Pages: 65 * mib}}, true},
		{"and a page of it that Windows lists", []phys.Run{low(256*mib - 1), video}, []phys.Run{top(video, 16*mib-1), top(low(256*mib), 16*mib)}, true},
	} {
		ram, err := phys.NewRuns(tt.ram...)
		if err != nil {
			t.Fatal(err)
		}
		hidden, err := phys.NewRuns(tt.hidden...)
		if err != nil {
			t.Fatal(err)
		}
		m := DumpedMemory{RAM: ram, Unlisted: hidden}
		m.judge()
		if m.Suspicious != tt.want {
			t.Errorf("%s: suspicious: %v; want %v", tt.name, m.Suspicious, tt.want)
		}
	}
}

// TestFirmwareIsNotSuspicious: what a sound guest doesn't list is counted, no more.
func TestFirmwareIsNotSuspicious(t *testing.T) {
	for _, c := range []ntlab.Config{{}, {Memory: ntlab.MinMemory}, {Memory: 5 << 30, Machine: "i440fx"}} {
		im, err := ntlab.Build(c)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Analyze(t.Context(), im, im.RAM(), im.Registers(), LookOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := im.RAM().Minus(windowsPages(t, im))
		if a.Degraded() || !slices.Equal(a.Memory.Unlisted, want) || !slices.Equal(a.Memory.Hidden, want) || len(want) == 0 {
			t.Errorf("%d MiB: degraded: %v; not listed: %v, hidden: %v; want %v", c.Memory>>20, a.Degraded(), a.Memory.Unlisted, a.Memory.Hidden, want)
		}
	}
}
