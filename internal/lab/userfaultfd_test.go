package lab

import (
	"os"
	"strings"
	"testing"
	"time"

	"snap/internal/lab/labtest"
)

// TestUserfaultfd: those who want it one way have it together, and those who
// want it the other way wait for them; then it is what it was.
func TestUserfaultfd(t *testing.T) {
	labtest.NeedsDaemons(t)
	value := func() string {
		b, err := os.ReadFile(unprivilegedUserfaultfd)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	set := func(allowed bool) func() error {
		release, err := Userfaultfd(allowed)
		if err != nil {
			t.Fatal(err)
		}
		return release
	}
	first, second := set(true), set(true)
	denied := make(chan func() error)
	go func() {
		release, err := Userfaultfd(false)
		if err != nil {
			t.Error(err)
		}
		denied <- release
	}()
	for _, release := range []func() error{first, second} {
		select {
		case <-denied:
			t.Fatal("it was forbidden while somebody needed it")
		case <-time.After(50 * time.Millisecond):
		}
		if got := value(); got != "1" {
			t.Errorf("%s is %s; want 1", unprivilegedUserfaultfd, got)
		}
		if err := release(); err != nil {
			t.Error(err)
		}
	}
	release := <-denied
	if got := value(); got != "0" {
		t.Errorf("%s is %s; want 0", unprivilegedUserfaultfd, got)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}
