package main

import (
	"errors"
	"strconv"

	"github.com/docker/go-units"
)

// maxSize bounds sizes on the command line: more than any machine has.
const maxSize = 1 << 56

// errSize says what a size looks like.
var errSize = errors.New("a size is like 512M, 3G, 3GiB or 0x1000: powers of two, as QEMU and libvirt have them; a number alone is bytes")

// parseSize reads bytes with or without a unit. Units are powers of two, whatever
// their spelling: 3G, 3GB and 3GiB are 3221225472 bytes.
func parseSize(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		var signed int64
		if signed, err = units.RAMInBytes(s); err != nil || signed < 0 {
			return 0, errSize
		}
		n = uint64(signed)
	}
	if n > maxSize {
		return 0, errSize
	}
	return n, nil
}

// parseMemory is parseSize of memory to use: a number alone is hardly ever meant as
// bytes, and below a MiB nothing works.
func parseMemory(s string) (uint64, error) {
	n, err := parseSize(s)
	if err == nil && n < 1<<20 {
		err = errSize
	}
	return n, err
}
