// Package kerneltables reads the tables of facts about real kernels that are in
// internal/ntlab/testdata/windows, for tests: apart from the generator that makes
// profiles of them.
package kerneltables

import (
	"encoding/csv"
	"os"
	"testing"
)

// Read returns the rows of the table at path, each by the names of its columns.
func Read(t testing.TB, path string) []map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]string
	for _, l := range lines[1:] {
		r := map[string]string{}
		for i, v := range l {
			r[lines[0][i]] = v
		}
		out = append(out, r)
	}
	return out
}
