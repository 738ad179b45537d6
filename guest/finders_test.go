package guest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/internal/ntlab"
	"snap/phys"
)

func TestFinders(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Finders() {
		if f.Name == "" || f.Cost == "" || f.Trust == "" || seen[f.Name] {
			t.Errorf("finder %+v: a part is empty, or the name occurs twice", f)
		}
		seen[f.Name] = true
	}
	if len(seen) != len(finders()) || finders()[0].Cost != "reads nothing" {
		t.Errorf("%d finders, the first: %+v; want the one that costs nothing", len(seen), finders()[0].Finder)
	}
}

// TestAddFinder is how a finder is added: a file with one value, and a place in
// the list. What it finds is believed only if the guest agrees.
func TestAddFinder(t *testing.T) {
	im, err := ntlab.Build(ntlab.Config{Seed: 140, Memory: 256 << 20, CPUs: 2, NoLowStub: true})
	if err != nil {
		t.Fatal(err)
	}
	kernel, ok := im.Translate(im.Truth.KernelBase)
	if !ok {
		t.Fatal("the kernel is not mapped")
	}
	root := im.Truth.DirectoryTableBase
	asked := 0
	rumour := finder{
		Finder: Finder{Name: "rumour", Cost: "reads nothing", Trust: "somebody said so"},
		find: func(_ context.Context, _ *discovery, try func(candidate) bool) (string, error) {
			for _, at := range []phys.Addr{kernel, 1 << 45, root, root} {
				asked++
				if !try(candidate{root: at, from: "rumour"}) {
					break
				}
			}
			return "", nil
		},
	}
	s, err := discover(t.Context(), im, im.RAM(), nil, []finder{findRegisters, findLowStub, rumour, findSelfMap}, Options{})
	if err != nil {
		t.Fatalf("discover failed: %v", err)
	}
	if s.DirectoryTableBase.Value != root || s.Witness != "rumour" || asked != 3 {
		t.Errorf("DirectoryTableBase = %#x by %q, %d candidates; want %#x by rumour, after 3",
			uint64(s.DirectoryTableBase.Value), s.Witness, asked, uint64(root))
	}
	var got []string
	for _, a := range s.Attempts {
		text, _, _ := strings.Cut(a.String(), ": translate")
		got = append(got, fmt.Sprintf("%s: %s", a.Finder, text))
	}
	want := []string{
		"processor registers: no processor's registers name a page table",
		"low stub: no low stub below 1 MiB",
		fmt.Sprintf("rumour: rumour (%#x): read KUSER_SHARED_DATA", uint64(kernel)),
		fmt.Sprintf("rumour: rumour (%#x): %v", 1<<45, phys.ErrNotRAM),
		fmt.Sprintf("rumour: rumour (%#x): leads to Windows", uint64(root)),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
}

// TestAttemptsAreBounded: of very many candidates the first are told, the rest
// counted, and the one that is right comes last.
func TestAttemptsAreBounded(t *testing.T) {
	im, err := ntlab.Build(ntlab.Config{Seed: 141, Memory: 256 << 20, CPUs: 1})
	if err != nil {
		t.Fatal(err)
	}
	const bad = 40
	by := func(last phys.Addr) []finder {
		return []finder{{
			Finder: Finder{Name: "many"},
			find: func(_ context.Context, _ *discovery, try func(candidate) bool) (string, error) {
				for i := range phys.Addr(bad) {
					try(candidate{root: 1<<45 + i<<phys.PageShift, from: "nothing"})
				}
				try(candidate{root: last, from: "the last"})
				return "nothing fits", nil
			},
		}}
	}
	s, err := discover(t.Context(), im, im.RAM(), nil, by(im.Truth.DirectoryTableBase), Options{})
	if err != nil {
		t.Fatalf("discover failed: %v", err)
	}
	last := s.Attempts[len(s.Attempts)-1]
	if len(s.Attempts) != maxTried+1 || last.Err != nil || last.What != "the last" {
		t.Errorf("%d attempts, the last: %v; want %d and the right one", len(s.Attempts), last, maxTried+1)
	}

	s, err = discover(t.Context(), im, im.RAM(), nil, by(1<<46), Options{})
	none, ok := errors.AsType[*NotFoundError](err)
	if s != nil || !ok || !errors.Is(err, ErrNotWindows) {
		t.Fatalf("discover = %v, %v; want a *NotFoundError of class ErrNotWindows", s, err)
	}
	if more := len(Archs())*(bad+2) - maxTried; len(none.Attempts) != maxTried || none.More != more {
		t.Errorf("%d attempts and %d more; want %d and %d", len(none.Attempts), none.More, maxTried, more)
	}
}

// TestNotFoundWithoutVerdict: an error of the reader is told as such.
func TestNotFoundWithoutVerdict(t *testing.T) {
	broken := errors.New("cable pulled")
	e := &NotFoundError{Reason: ReasonUnreadable, FailedReads: 3, ReadErr: broken}
	const want = "look for Windows: 3 reads of the guest's memory failed, the first: cable pulled"
	if !errors.Is(e, broken) || errors.Is(e, ErrNotWindows) || e.Error() != want {
		t.Errorf("error = %q; want %q, of the reader's class only", e, want)
	}
	e = &NotFoundError{Reason: ReasonLinux, Why: "it looks like Linux", Attempts: []Attempt{{Finder: "f", Err: broken}}}
	if want := ErrNotWindows.Error() + ": it looks like Linux"; !errors.Is(e, ErrNotWindows) || e.Error() != want {
		t.Errorf("error = %q; want %q", e, want)
	}
}

func TestAttemptIsOneLine(t *testing.T) {
	a := Attempt{Finder: "f", What: "vCPU 0 CR3", Root: 0x1000, Err: errors.New("a\nb")}
	if got, want := a.String(), "vCPU 0 CR3 (0x1000): a, b"; got != want {
		t.Errorf("attempt = %q; want %q", got, want)
	}
}
