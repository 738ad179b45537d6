package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"snap/dump"
	"snap/store"
)

// stdoutDestination is the -o value that means standard output.
const stdoutDestination = "-"

// destination turns the -o value into a place and a file name there: a folder
// gets a name made of the domain and the time, {domain} and {time} stand for
// these anywhere.
func destination(output, domain string, at time.Time, c dump.Compression, o store.Options) (store.Place, string, error) {
	r := strings.NewReplacer("{domain}", fileName(domain), "{time}", at.UTC().Format("20060102T150405Z"))
	output = r.Replace(output)
	place, name, err := store.Open(output, o)
	if err != nil {
		err = fmt.Errorf("write the dump to %s: %w", output, err)
		if errors.Is(err, fs.ErrNotExist) {
			err = next(err, "make the folder first: mkdir -p %s", filepath.Dir(output))
		}
		return nil, "", err
	}
	if name == "" {
		name = r.Replace("{domain}-{time}.dmp" + c.Suffix())
	}
	return place, name, nil
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
