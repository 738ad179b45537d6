package main

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTableIsGenerated: the table that is checked in is what the tables make.
func TestTableIsGenerated(t *testing.T) {
	want, err := generate("../../testdata/windows")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../profile_table.go")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("profile_table.go isn't what go generate ./internal/ntlab makes of the tables (-want +got):\n%s", diff)
	}
}
