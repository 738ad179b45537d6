// Package labtest lets tests say that they need real daemons and guests.
package labtest

import (
	"os"
	"testing"
)

// NeedsDaemons is called first by a test, or by the helper that starts its guest,
// that needs libvirtd, QEMU or the host's settings. It skips the test where only
// quick ones are asked for, by go test -short, as make check does. make test runs
// them all: where CI is set, as it is in continuous integration, a test that is
// skipped so fails instead.
func NeedsDaemons(t testing.TB) {
	t.Helper()
	if !testing.Short() {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("-short skips tests with real daemons, and CI has to run them: use make test")
	}
	t.Skip("needs libvirtd and QEMU: make test runs it, make check and go test -short don't")
}
