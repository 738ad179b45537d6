package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"snap/dump"
)

// stdoutDestination is the -o value that means standard output.
const stdoutDestination = "-"

// destination turns the -o value into a file name: a folder gets a name made
// of the domain and the time, {domain} and {time} stand for these anywhere.
func destination(output, domain string, at time.Time, c dump.Compression) (string, error) {
	if output == stdoutDestination {
		return output, nil
	}
	name := "{domain}-{time}" + ".dmp" + c.Suffix()
	switch info, err := os.Stat(output); {
	case output == "":
		output = name
	case strings.HasSuffix(output, "/") || err == nil && info.IsDir():
		output = filepath.Join(output, name)
	}
	r := strings.NewReplacer("{domain}", fileName(domain), "{time}", at.UTC().Format("20060102T150405Z"))
	output = r.Replace(output)
	folder := filepath.Dir(output)
	if info, err := os.Stat(folder); err != nil {
		return "", next(fmt.Errorf("write the dump to %s: %w", output, err), "make the folder first: mkdir -p %s", folder)
	} else if !info.IsDir() {
		return "", fmt.Errorf("write the dump to %s: %s is not a folder", output, folder)
	}
	return output, nil
}

// fileName makes a domain's name safe as part of a file name.
func fileName(domain string) string {
	safe := strings.Map(func(r rune) rune {
		if r < ' ' || r == '/' || r == 0x7f {
			return '_'
		}
		return r
	}, domain)
	return strings.TrimLeft(safe, ".-")
}
