package capture

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"snap/dump"
	"snap/dump/verify"
	"snap/hv"
)

// job is a dump for a test to take.
type job struct {
	Options
	vm hv.VM
}

// take takes the dump to w.
func (j *job) take(ctx context.Context, w io.Writer) (*Result, error) {
	s, err := Open(ctx, j.vm, j.Options)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Dump(ctx, w)
}

// taken is a dump that a test took.
type taken struct {
	res    *Result
	file   *dump.File
	packed string // path of the file as written
	plain  string // path of the expanded dump
}

// warnings are all that the dump was taken with.
func (d *taken) warnings() []string { return d.res.Manifest.Warnings }

// take takes a dump of vm by way of a copy, verifies and expands it.
func take(t *testing.T, vm *imageVM, o LookOptions) (*taken, error) {
	t.Helper()
	return takeBy(t, &job{vm: vm, Options: Options{Mode: Pause{}, Look: o, MemoryCopy: 1 << 30}})
}

// takeBy does the job, verifies the dump and expands it.
func takeBy(t *testing.T, j *job) (*taken, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "out.dmp.zst")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	res, err := j.take(t.Context(), out)
	if err != nil {
		return nil, err
	}
	f, err := dump.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	rep, err := verify.Verify(t.Context(), f, verify.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range rep.Failed() {
		t.Errorf("verification failed: %s: %s", c.Name, c.Detail)
	}
	plain, err := os.Create(filepath.Join(t.TempDir(), "out.dmp"))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := dump.Expand(t.Context(), f, plain, nil); err != nil {
		t.Fatal(err)
	}
	return &taken{res, f, path, plain.Name()}, nil
}
