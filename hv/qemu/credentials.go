package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// capSysPtrace is the number of CAP_SYS_PTRACE (Linux include/uapi/linux/capability.h).
const capSysPtrace = 19

// credentials are a process's, from /proc/PID/status.
type credentials struct {
	uid       uint64
	gids      []uint64
	effective uint64 // capabilities
}

var credentialLine = regexp.MustCompile(`(?m)^(Uid|Gid|Groups|CapEff):\t(.*)$`)

func parseCredentials(status []byte) (credentials, error) {
	var c credentials
	seen := 0
	for _, m := range credentialLine.FindAllSubmatch(status, -1) {
		seen++
		base := 10
		if string(m[1]) == "CapEff" {
			base = 16
		}
		var values []uint64
		for _, f := range strings.Fields(string(m[2])) {
			v, err := strconv.ParseUint(f, base, 64)
			if err != nil {
				return c, err
			}
			values = append(values, v)
		}
		switch string(m[1]) {
		case "Groups":
			c.gids = append(c.gids, values...)
			continue
		case "Gid":
			if len(values) == 4 {
				c.gids = append(c.gids, values[1])
				continue
			}
		case "Uid":
			if len(values) == 4 {
				c.uid = values[1]
				continue
			}
		case "CapEff":
			if len(values) == 1 {
				c.effective = values[0]
				continue
			}
		}
		return c, fmt.Errorf("process status: line %q is of an unknown form", m[0])
	}
	if seen != 4 {
		return c, errors.New("process status lacks ids or capabilities")
	}
	return c, nil
}

// mayReadWrite reports whether the file's mode lets the process read and write it.
func (c credentials) mayReadWrite(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	switch {
	case !ok:
		return false
	case uint64(st.Uid) == c.uid:
		return mode&0o600 == 0o600
	case slices.Contains(c.gids, uint64(st.Gid)):
		return mode&0o060 == 0o060
	}
	return mode&0o006 == 0o006
}
