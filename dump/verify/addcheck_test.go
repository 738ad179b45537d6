package verify

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"snap/dump"
	"snap/internal/ntlab"
)

// TestAddCheck: a check is a function and a row in checks. What it needs is made
// before it, what needs it is skipped if it fails, and its verdict counts.
func TestAddCheck(t *testing.T) {
	l := newLab(t, ntlab.Config{})
	b := l.write(t, dump.Options{})
	f, err := dump.NewFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const workdays, needsIt, notForThis = "taken on a workday", "needs a workday", "for dumps of another kind"
	for _, bad := range []error{nil, errors.New("it was a Sunday")} {
		rows := append(checks(),
			check{name: workdays, level: LevelFail, needs: []string{CheckKernel}, make: func(v *verifier) (string, error) {
				if v.system == nil {
					t.Error("a check is made before what it needs")
				}
				return "a Monday", bad
			}},
			check{name: needsIt, level: LevelNote, needs: []string{workdays}, make: func(*verifier) (string, error) { return "", nil }},
			check{name: notForThis, level: LevelLimit, readers: []Reader{"the calendar"}, applies: func(*verifier) bool { return false }, make: func(*verifier) (string, error) {
				t.Error("a check that doesn't apply is made")
				return "", nil
			}})
		r, err := verify(t.Context(), f, Options{SkipFrames: true}, rows)
		if err != nil {
			t.Fatal(err)
		}
		made := func(name string) bool {
			return slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Name == name })
		}
		if !made(workdays) || made(notForThis) || made(needsIt) != (bad == nil) || slices.Contains(r.Skipped, needsIt) != (bad != nil) {
			t.Errorf("with %v: checks %+v, skipped %q", bad, r.Checks, r.Skipped)
		}
		if failed := r.Failed(); r.OK != (bad == nil) || bad != nil && (len(failed) != 1 || failed[0].Detail != bad.Error()) {
			t.Errorf("with %v: OK = %v, failed %+v", bad, r.OK, failed)
		}
	}
}
