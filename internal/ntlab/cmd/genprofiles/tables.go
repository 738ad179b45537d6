package main

import (
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// row is a row of a table by its columns' names.
type row map[string]string

// tables are the three tables, in the order of their rows.
type tables struct {
	columns                []string // of kernels
	kernels, images, sizes []row
}

func readTables(dir string) (*tables, error) {
	t := &tables{}
	for name, to := range map[string]*[]row{
		"kernels.csv": &t.kernels, "kernel_images.csv": &t.images, "kdbg_sizes.csv": &t.sizes,
	} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		all, err := csv.NewReader(f).ReadAll()
		_ = f.Close() // it was only read
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, values := range all[1:] {
			r := row{}
			for i, column := range all[0] {
				r[column] = values[i]
			}
			*to = append(*to, r)
		}
		if to == &t.kernels {
			t.columns = all[0]
		}
	}
	return t, nil
}

// kernel returns the row of that version, of which there must be one.
func (t *tables) kernel(version string) (row, error) {
	for _, r := range t.kernels {
		if (r["arch"] == "amd64" || r["arch"] == x86) && r["version"] == version {
			return r, nil
		}
	}
	return nil, fmt.Errorf("kernels.csv has no amd64 or x86 kernel %q", version)
}

func (t *tables) image(version string) (row, error) {
	for _, r := range t.images {
		if r["arch"] == "amd64" && r["file"] == "ntoskrnl.exe" && r["version"] == version {
			return r, nil
		}
	}
	return nil, fmt.Errorf("kernel_images.csv has no image %q", version)
}

func (t *tables) kdbgSize(generation string) (uint32, error) {
	for _, r := range t.sizes {
		if strings.HasPrefix(r["generation"], generation) {
			return number(r, "size")
		}
	}
	return 0, fmt.Errorf("kdbg_sizes.csv has no generation %q", generation)
}

// number returns a column's number.
func number(r row, column string) (uint32, error) {
	n, err := strconv.ParseUint(r[column], 0, 32)
	if err != nil {
		return 0, fmt.Errorf("%s: column %s: %w", r["version"], column, err)
	}
	return uint32(n), nil
}
