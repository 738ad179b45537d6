package capture

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"snap/dump"
	"snap/dump/verify"
	"snap/hv"
	"snap/internal/ntlab"
	"snap/manifest"
	"snap/phys"
	"snap/store"
)

// toStream is a place that gives nothing back, and what it was given.
func toStream(t *testing.T) (store.Place, string, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	place, name, err := store.Open("-", store.Options{Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	return place, name, &out
}

// TestInFlight: a dump that can't be read back is verified on its way, with all that
// is found in the file by whoever has it, in each mode.
func TestInFlight(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		options Options
	}{
		{"a copy", Options{Mode: Pause{}, MemoryCopy: spoolSize}},
		{"held still meanwhile", Options{Mode: Pause{}}},
		{"a copy of a guest that runs", Options{Mode: Live{}, MemoryCopy: spoolSize, MaxChanged: &ChangeLimit{Share: 1}}},
		{"a guest that runs", Options{Mode: Live{}, MaxChanged: &ChangeLimit{Share: 1}}},
		{"one frame in some was to be decoded", Options{Mode: Pause{}, Write: dump.Options{Verification: dump.VerifyStored, Compression: dump.CompressionGzip}}},
		{"without compression", Options{Mode: Pause{}, Write: dump.Options{Compression: dump.CompressionNone}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			place, name, out := toStream(t)
			stored := tt.options.Write.Verification == dump.VerifyStored
			res, err := Take(t.Context(), newGuest(t, ntlab.Config{Seed: 71}), place, name, tt.options)
			if err != nil {
				t.Fatal(err)
			}
			man := res.Manifest
			if res.Degraded || man.ExitCode != manifest.ExitDone || man.Verify == nil || man.Verify.How != manifest.VerifiedInFlight || man.Verify.ReadBack != 0 {
				t.Fatalf("degraded %v, exit code %d, verdict %+v, warnings %q; want it verified in flight", res.Degraded, man.ExitCode, man.Verify, man.Warnings)
			}
			if p := man.Proof; p.Verify != string(dump.VerifyDecoded) || p.Frames != p.Zero+p.Decoded {
				t.Errorf("proof is %+v; want every frame decoded", p)
			}
			said := strings.Contains(strings.Join(man.Warnings, "\n"), "every frame is expanded")
			if said != stored {
				t.Errorf("that more is decoded than asked for is said: %v; want %v", said, stored)
			}
			want := verdictOfBytes(t, out.Bytes())
			skip := cmpopts.IgnoreSliceElements(func(c manifest.Check) bool { return c.Name == verify.CheckFrames })
			if diff := cmp.Diff(want.Checks, man.Verify.Checks, skip); diff != "" || len(man.Verify.Checks) < 20 {
				t.Errorf("%d checks were made in flight, others than of the file (-file +in flight):\n%s", len(man.Verify.Checks), diff)
			}
		})
	}
}

// verdictOfBytes verifies a dump.
func verdictOfBytes(t *testing.T, b []byte) *manifest.Verify {
	t.Helper()
	f, err := dump.NewFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rep, err := verify.Verify(t.Context(), f, verify.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return Verdict(rep)
}

// TestInFlightFaults: what is wrong with a dump is found though it can't be read back,
// and is said in the account inside it, too.
func TestInFlightFaults(t *testing.T) {
	var plain bytes.Buffer
	place, name, err := store.Open("-", store.Options{Stdout: &plain})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Take(t.Context(), newGuest(t, ntlab.Config{Seed: 72}), place, name, Options{Mode: Pause{}, Write: dump.Options{Compression: dump.CompressionNone}}); err != nil {
		t.Fatal(err)
	}
	b := plain.Bytes()
	copy(b[0x80:], make([]byte, 8)) // the KDBG's address
	copy(b[0x80:], "\x00\x10")
	f, err := dump.NewFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	place, name, out := toStream(t)
	res, err := Repack(t.Context(), f, nil, hv.Identity{Name: "broken"}, place, name, Options{Tool: "1.0"})
	if err != nil {
		t.Fatal(err)
	}
	if !res.Degraded || res.Manifest.ExitCode != manifest.ExitDegraded || res.Manifest.Verify.OK {
		t.Errorf("degraded %v, exit code %d, verdict %v; want a fault", res.Degraded, res.Manifest.ExitCode, res.Manifest.Verify.OK)
	}
	if !strings.Contains(strings.Join(res.Manifest.Warnings, "\n"), "verification failed: KDBG: ") {
		t.Errorf("warnings are %q; want the KDBG's", res.Manifest.Warnings)
	}
	again, err := dump.NewFile(bytes.NewReader(out.Bytes()), int64(out.Len()))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	inside, err := manifest.Decode(again.Metadata())
	if err != nil || inside.ExitCode != manifest.ExitDegraded || inside.Verify == nil || inside.Verify.OK {
		t.Errorf("the account inside is %+v, %v; want the fault in it", inside, err)
	}
}

// everOther is RAM whose bytes are others at every reading.
type everOther struct {
	fakeMemory
	readings byte
}

func (m *everOther) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	m.readings++
	for i := range m.bytes {
		m.bytes[i] = m.readings
	}
	return m.fakeMemory.ReadPhys(ctx, p, at)
}

// TestKeptMemory: pages that were read during a look are the same whenever and however
// they are read later, and no others are kept.
func TestKeptMemory(t *testing.T) {
	below := &everOther{}
	below.ram, below.bytes = phys.Runs{{Base: 0, Pages: 16}}, make([]byte, 16<<phys.PageShift)
	m := &keptMemory{Memory: below}
	read := func(first, pages int) []byte {
		t.Helper()
		p := make([]byte, pages<<phys.PageShift)
		if err := m.ReadPhys(t.Context(), p, phys.PFN(first).Addr()); err != nil {
			t.Fatal(err)
		}
		return p
	}
	before := read(0, 16) // 1
	if err := m.during(func() error {
		read(2, 2) // 2
		read(3, 3) // 3, with page 3 as it was
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	after := read(0, 16) // 4
	for i := range 16 {
		fmt.Fprintf(&got, "%d%d ", before[i<<phys.PageShift], after[i<<phys.PageShift+0xfff])
	}
	if want := "14 14 12 12 13 13 14 14 14 14 14 14 14 14 14 14 "; got.String() != want {
		t.Errorf("pages before and after are of the readings %s; want %s", got.String(), want)
	}
	part := make([]byte, 0x1800)
	if err := m.ReadPhys(t.Context(), part, 0x5800); err != nil { // 5
		t.Fatal(err)
	}
	if part[0] != 3 || part[0x7ff] != 3 || part[0x800] != 5 {
		t.Errorf("half of a kept page and the next one are of the readings %d, %d and %d; want 3, 3 and 5", part[0], part[0x7ff], part[0x800])
	}
}

// TestKeptMemoryIsBounded: a guest can't have as much of it kept as it likes.
func TestKeptMemoryIsBounded(t *testing.T) {
	below := &fakeMemory{ram: phys.Runs{{Base: 0, Pages: maxKeptPages + 1}}, bytes: make([]byte, (maxKeptPages+1)<<phys.PageShift)}
	m := &keptMemory{Memory: below}
	p := make([]byte, len(below.bytes)-phys.PageSize)
	if err := m.during(func() error { return m.ReadPhys(t.Context(), p, 0) }); err != nil {
		t.Fatal(err)
	}
	err := m.during(func() error { return m.ReadPhys(t.Context(), p[:phys.PageSize], maxKeptPages<<phys.PageShift) })
	if err == nil || !strings.Contains(err.Error(), "more than 16384 pages") {
		t.Errorf("one page more is kept: %v", err)
	}
}
