package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"snap/manifest"
	"snap/retention"
	"snap/store"
)

const someUUID = "5f5a3c1e-0000-4000-8000-000000000001"

// after is a dump that began so many hours after the first.
func after(hours int, more ...func(*manifest.Manifest)) func(*manifest.Manifest) {
	return func(m *manifest.Manifest) {
		m.Started = began.Add(time.Duration(hours) * time.Hour)
		for _, change := range more {
			change(m)
		}
	}
}

func told(p *Plan) []string {
	var out []string
	for _, v := range p.Verdicts {
		out = append(out, fmt.Sprintf("%s | %s | %s", v.Name, v.Action, strings.Join(v.Why, ", ")))
	}
	return out
}

// TestPlan is of what retention is about, and of what it isn't.
func TestPlan(t *testing.T) {
	s := newShelf(t)
	s.dump("1.dmp.zst", 7, after(0))
	s.dump("2.dmp.zst", 7, after(1, func(m *manifest.Manifest) { m.UUID = strings.ToUpper(m.UUID) }))
	s.dump("3.dmp.zst", 7, after(2, func(m *manifest.Manifest) { m.Verify.OK = false }))
	s.dump("clone.dmp", 7, after(0, func(m *manifest.Manifest) { m.Host = "another" }))
	s.dump("0.dmp", 7, after(-1, func(m *manifest.Manifest) { m.KeptUntil = began.Add(25 * time.Hour) }))
	s.dump("renamed.dmp", 7, after(0, func(m *manifest.Manifest) { m.Output = "s3://bucket/evidence.dmp" }))
	s.dump("named by hand", 7, after(0))
	s.dump("converted.dmp", 7, after(0, func(m *manifest.Manifest) { m.Mode = manifest.ModeConvert }))
	s.dump("nobody.dmp", 7, after(0, func(m *manifest.Manifest) { m.UUID = "" }))
	s.dump("long.dmp", 7, after(0, func(m *manifest.Manifest) { m.UUID = strings.Repeat("a", 65) }))
	s.dump("timeless.dmp", 7, func(m *manifest.Manifest) { m.Started = time.Time{} })
	s.dump("path.dmp", 7, after(0, func(m *manifest.Manifest) { m.Output = "../../path.dmp/" }))
	s.dump("cut.dmp", 7, after(0))
	s.put("cut.dmp", "x")
	s.put("alone.dmp", "x")
	s.put("notes", "x")
	want := []string{
		"0.dmp | keep | the place keeps it until 2026-11-23 02:00:00 UTC",
		"1.dmp.zst | remove | ",
		"2.dmp.zst | keep | newest verified",
		"3.dmp.zst | keep | last",
		"alone.dmp | untouched | nothing lies beside it",
		"clone.dmp | keep | newest verified",
		"converted.dmp | untouched | it was made from a file, and is no domain's",
		"cut.dmp | untouched | it has 1 bytes; its manifest says 7",
		"long.dmp | untouched | its manifest doesn't say of which domain it is",
		"named by hand | untouched | its name isn't that of a dump",
		"nobody.dmp | untouched | its manifest doesn't say of which domain it is",
		"notes | untouched | neither its name nor a manifest says that it is a dump",
		"path.dmp | remove | ",
		"renamed.dmp | untouched | it was renamed: its manifest says that it was written under another name",
		"timeless.dmp | untouched | its manifest doesn't say when it was taken",
	}
	p := MakePlan(s.read(), retention.Policy{Last: 1}, began.Add(24*time.Hour))
	got := told(p)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("MakePlan (-want +got):\n%s", diff)
	}
	if p.Kept != 28 || p.Over {
		t.Errorf("%d bytes are kept, over: %t; want 28, and no cap", p.Kept, p.Over)
	}
	if p = MakePlan(s.read(), retention.Policy{Last: 1, MaxTotal: 20}, began.Add(24*time.Hour)); p.Kept != 21 || !p.Over {
		t.Errorf("with a cap of 20, %d bytes are kept, over: %t; want 21, over", p.Kept, p.Over)
	}
}

// TestPlanRenamed: a domain that was renamed is one for the rules, and its last dump of
// each name stays.
func TestPlanRenamed(t *testing.T) {
	s := newShelf(t)
	old := func(m *manifest.Manifest) { m.Domain = "old" }
	s.dump("1.dmp", 7, after(1, old))
	s.dump("2.dmp", 7, after(2, old))
	s.dump("3.dmp", 7, after(3))
	s.dump("4.dmp", 7, after(4))
	want := []string{"1.dmp | remove | ", "2.dmp | keep | newest verified", "3.dmp | keep | last", "4.dmp | keep | last, newest verified"}
	if diff := cmp.Diff(want, told(MakePlan(s.read(), retention.Policy{Last: 2}, began.Add(24*time.Hour)))); diff != "" {
		t.Errorf("MakePlan (-want +got):\n%s", diff)
	}
}

// TestPlanOf one domain leaves all others alone, and the dump that was taken just now
// even if its clock was wrong.
func TestPlanOf(t *testing.T) {
	s := newShelf(t)
	other := func(m *manifest.Manifest) { m.UUID = "other" }
	s.dump("1.dmp", 7, after(1))
	s.dump("2.dmp", 7, after(2))
	s.dump("3.dmp", 7, after(3))
	s.dump("now.dmp", 7, after(0))
	s.dump("o1.dmp", 7, after(1, other))
	s.dump("o2.dmp", 7, after(2, other))
	s.put("notes", "x")
	p := MakePlan(s.read(), retention.Policy{Last: 1}, began.Add(24*time.Hour)).Of(strings.ToUpper(someUUID), "now.dmp")
	want := []string{
		"1.dmp | remove | ", "2.dmp | remove | ", "3.dmp | keep | last, newest verified",
		"notes | untouched | neither its name nor a manifest says that it is a dump",
		"now.dmp | keep | it was taken just now",
		"o1.dmp | untouched | it is another domain's", "o2.dmp | untouched | it is another domain's",
	}
	got := told(p)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Of (-want +got):\n%s", diff)
	}
}

// TestCarry: what is kept by the place, or fails, keeps nothing else from going.
func TestCarry(t *testing.T) {
	s := newShelf(t)
	for i := range 6 {
		s.dump(fmt.Sprintf("%d.dmp", i), 7, after(i))
	}
	p := MakePlan(s.read(), retention.Policy{Last: 1}, began.Add(24*time.Hour))
	s.put("1.dmp", "another one")
	if err := errors.Join(os.Remove(filepath.Join(s.dir, "2.dmp")), os.Remove(filepath.Join(s.dir, "4.dmp.json"))); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := p.Carry(t.Context(), keeping{s.archive(), "3.dmp"}, func(o Outcome) {
		why := "-"
		for _, known := range []error{store.ErrKept, ErrChanged, fs.ErrNotExist} {
			if errors.Is(o.Err, known) {
				why = known.Error()
				break
			}
		}
		got = append(got, fmt.Sprintf("%s gone: %t failed: %t %s", o.Name, o.Gone, o.Failed(), why))
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"0.dmp gone: true failed: false -",
		"1.dmp gone: false failed: true " + ErrChanged.Error(),
		"2.dmp gone: true failed: false -",
		"3.dmp gone: false failed: false " + store.ErrKept.Error(),
		"4.dmp gone: false failed: true " + ErrChanged.Error(),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Carry (-want +got):\n%s", diff)
	}
	left := []string{"1.dmp", "1.dmp.json", "2.dmp.json", "3.dmp", "3.dmp.json", "4.dmp", "5.dmp", "5.dmp.json"}
	if diff := cmp.Diff(left, s.names()); diff != "" {
		t.Errorf("what is left (-want +got):\n%s", diff)
	}
}

// TestCarryEnds with its context, between two dumps.
func TestCarryEnds(t *testing.T) {
	s := newShelf(t)
	for i := range 4 {
		s.dump(fmt.Sprintf("%d.dmp", i), 7, after(i))
	}
	p := MakePlan(s.read(), retention.Policy{Last: 1}, began.Add(24*time.Hour))
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := p.Carry(ctx, s.archive(), func(Outcome) { n++; cancel() })
	if !errors.Is(err, context.Canceled) || n != 1 {
		t.Errorf("Carry = %v after %d dumps; want %v after 1", err, n, context.Canceled)
	}
	if got := s.names(); len(got) != 6 {
		t.Errorf("%q are left; want three dumps with their manifests", got)
	}
}
