// Command genprofiles writes the lab's table of kernels, internal/ntlab/profile_table.go,
// from the tables in internal/ntlab/testdata/windows. Run it with go generate after
// either has changed; a test fails where they differ.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	in := flag.String("in", "testdata/windows", "the `folder` of kernels.csv, kernel_images.csv and kdbg_sizes.csv")
	out := flag.String("out", "profile_table.go", "the `file` to write")
	flag.Parse()
	text, err := generate(*in)
	if err == nil {
		err = os.WriteFile(*out, text, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "genprofiles:", err)
		os.Exit(1)
	}
}
