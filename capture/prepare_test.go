package capture

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"snap/dump"
	"snap/exclude"
	"snap/hv"
	"snap/internal/ntlab"
	"snap/store"
)

// cramped is a folder with so much space.
type cramped struct {
	store.Place
	space store.Space
}

func (c cramped) Space(context.Context) (store.Space, error) { return c.space, nil }

// TestPrepareIsTake walks situations through Prepare and Take: they end with the
// same error before the guest is touched, or both don't.
func TestPrepareIsTake(t *testing.T) {
	t.Parallel()
	vm := newGuest(t, ntlab.Config{Seed: 91})
	if err := vm.im.Fill(48<<20, ntlab.Mix{Random: 1}); err != nil {
		t.Fatal(err)
	}
	room := func(n uint64) *store.Space { return &store.Space{Known: true, Sure: n, Most: n} }
	for _, tt := range []struct {
		name    string
		options Options
		before  []string     // files that are there
		space   *store.Space // of the folder, nil for its own
		name2   string       // of the dump
		want    error        // nil: a dump
		also    int          // what else stands in the way
		warns   string
	}{
		{name: "sound"},
		{name: "the name is taken", before: []string{"a.dmp"}, want: fs.ErrExist},
		{name: "the manifest's name is taken", options: Options{Manifest: true}, before: []string{"a.dmp.json"}, want: fs.ErrExist},
		{name: "no matter without a manifest", before: []string{"a.dmp.json"}},
		{name: "a name too long", name2: strings.Repeat("x", 300), want: syscall.ENAMETOOLONG},
		{name: "a pause too long", options: Options{MaxPause: time.Nanosecond}, want: ErrPauseTooLong},
		{name: "in mode pause too", options: Options{Mode: Pause{}, MaxPause: time.Nanosecond, MemoryCopy: spoolSize}, want: ErrPauseTooLong},
		{name: "of no matter in mode live", options: Options{Mode: Live{}, MaxPause: time.Nanosecond, MaxChanged: &ChangeLimit{Share: 1}}},
		{name: "no snapshots here", options: Options{Mode: Snapshot{}}, want: hv.ErrUnsupported},
		{name: "exclusions in vain", options: Options{Look: LookOptions{Exclusion: Exclusion{Requests: []exclude.Request{
			{By: "--exclude", Reason: exclude.Operator, Flags: exclude.FlagPhysical, Address: 1 << 40, Pages: 1},
		}}}}, want: ErrNotExcluded},
		{name: "no space at all", space: room(0), want: syscall.ENOSPC},
		{name: "far too little", space: room(20 << 20), want: syscall.ENOSPC},
		{name: "perhaps too little", space: room(52 << 20), warns: "may not fit"},
		{name: "with root's reserve", space: &store.Space{Known: true, Sure: 0, Most: 1 << 40}, warns: "may not fit"},
		{name: "plenty", space: room(1 << 40)},
		{name: "not known", space: &store.Space{}},
		{name: "two at once", options: Options{MaxPause: time.Nanosecond}, before: []string{"a.dmp"}, want: fs.ErrExist, also: 1},
		{name: "and three", options: Options{MaxPause: time.Nanosecond}, before: []string{"a.dmp"}, space: room(0), want: fs.ErrExist, also: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range tt.before {
				if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			place := store.Folder(dir, store.Options{})
			if tt.space != nil {
				place = cramped{place, *tt.space}
			}
			name := "a.dmp"
			if tt.name2 != "" {
				name = tt.name2
			}
			holds := vm.holds
			p := Prepare(t.Context(), vm, place, name, tt.options)
			foreseen, warned := p.Err(), slices.Clone(p.Warnings)
			if len(p.Also()) != tt.also {
				t.Errorf("Also() = %q; want %d", p.Also(), tt.also)
			}
			if p.Session == nil != (tt.want == ErrNotExcluded) { //nolint:errorlint // the table's own value
				t.Errorf("the guest was looked at: %v; want it to be wherever it can be", p.Session != nil)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if got := list(t, dir); vm.holds != holds || !slices.Equal(got, tt.before) {
				t.Errorf("Prepare held the guest %d times, and left %q; want nothing changed", vm.holds-holds, got)
			}
			res, err := Take(t.Context(), vm, place, name, tt.options)
			if !errors.Is(err, tt.want) || !errors.Is(foreseen, tt.want) {
				t.Errorf("Prepare: %v; Take: %v; want %v of both", foreseen, err, tt.want)
			}
			if tt.want == nil {
				warned = append(warned, res.Manifest.Warnings...)
			} else {
				if got := list(t, dir); !slices.Equal(got, tt.before) || vm.holds != holds {
					t.Errorf("Take held the guest %d times, and left %q; want neither", vm.holds-holds, got)
				}
				if strip(err) != strip(foreseen) {
					t.Errorf("Prepare: %v; Take: %v; want the same", foreseen, err)
				}
			}
			if got := strings.Join(warned, "\n"); tt.warns == "" && strings.Contains(got, "fit") || strings.Count(got, tt.warns) < 2 && tt.warns != "" {
				t.Errorf("warnings are %q; want %q of both", warned, tt.warns)
			}
		})
	}
}

// TestPrepareWithoutPlace: a guest is looked at also where there is no place for
// its dump.
func TestPrepareWithoutPlace(t *testing.T) {
	p := Prepare(t.Context(), newGuest(t, ntlab.Config{Seed: 92}), nil, "", Options{})
	defer p.Close()
	if p.Err() != nil || p.Session == nil {
		t.Errorf("Prepare = %v; want the guest looked at", p.Err())
	}
}

// TestPrepareWriteOnly: a dump that can't be read back isn't degraded by that.
func TestPrepareWriteOnly(t *testing.T) {
	place, name, err := store.Open("-", store.Options{Stdout: new(strings.Builder)})
	if err != nil {
		t.Fatal(err)
	}
	p := Prepare(t.Context(), newGuest(t, ntlab.Config{Seed: 93}), place, name, Options{})
	defer p.Close()
	if p.Err() != nil || len(p.Degraded) > 0 {
		t.Errorf("Prepare = %v, degraded %q; want a dump", p.Err(), p.Degraded)
	}
}

// TestRoom holds the room that is estimated against what files then take, with
// compression and with holes, of guests whose pages are all alike and all sorts.
func TestRoom(t *testing.T) {
	t.Parallel()
	for i, mix := range []ntlab.Mix{{Random: 1}, {Zero: 1, Text: 1, Random: 1}} {
		vm := newGuest(t, ntlab.Config{Seed: uint64(94 + i), Memory: 192 << 20})
		if err := vm.im.Fill(150<<20, mix); err != nil {
			t.Fatal(err)
		}
		for _, c := range []dump.Compression{dump.CompressionZstd, dump.CompressionNone} {
			t.Run(fmt.Sprintf("%s %v", c, mix), func(t *testing.T) {
				o := Options{Write: dump.Options{Compression: c}}
				s, err := Open(t.Context(), vm, o)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				e, err := s.Sample(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				dir := t.TempDir()
				if _, err := Take(t.Context(), vm, store.Folder(dir, store.Options{}), "a.dmp", o); err != nil {
					t.Fatal(err)
				}
				got := allocated(t, filepath.Join(dir, "a.dmp"))
				if got < e.Room.Least || got > e.Room.Most || e.Room.Least > e.Room.Likely || e.Room.Likely > e.Room.Most {
					t.Errorf("the file takes %d bytes; estimated were %+v", got, e.Room)
				}
				// Of pages with zeros among others, holes are found by chance.
				if e.Room.Least < got/2 && (mix.Zero == 0 || c != dump.CompressionNone) {
					t.Errorf("at least %d bytes are estimated for a file of %d; want more to be certain", e.Room.Least, got)
				}
				f, err := dump.Open(filepath.Join(dir, "a.dmp"))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				size, err := ExpandedSize(t.Context(), f)
				if err != nil {
					t.Fatal(err)
				}
				out := store.Folder(dir, store.Options{NoSum: true})
				w, err := out.Create(t.Context(), "b.dmp")
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = w.Abort() }()
				if _, err := dump.Expand(t.Context(), f, w, nil); err != nil {
					t.Fatal(err)
				}
				if err := w.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := allocated(t, filepath.Join(dir, "b.dmp")); got < size.Least || got > size.Most {
					t.Errorf("expanded it takes %d bytes; estimated were %+v", got, size)
				}
			})
		}
	}
}

// allocated is what a file takes of its file system.
func allocated(t *testing.T, path string) uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return uint64(st.Blocks) * 512 // st_blocks(3type)
}

// strip cuts off what is measured, and differs from time to time.
func strip(err error) string {
	text, _, _ := strings.Cut(err.Error(), "stand still for ")
	return text
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
