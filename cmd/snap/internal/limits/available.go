package limits

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// Available returns how many bytes of memory the process could get without the
// host or one of its control groups running short: MemAvailable (proc_meminfo(5)),
// or less where the memory controller of a control group, of version 1 or 2, has
// less left. root is the host's file system.
//
// No library serves: automemlimit knows limits but not what is used of them;
// containerd/cgroups takes a file that can't be read for a limit of 0, reads no
// fs.FS, and brings D-Bus, eBPF and protobuf along.
func Available(root fs.FS) (uint64, error) {
	left, err := field(root, "proc/meminfo", "MemAvailable:")
	if err != nil {
		return 0, fmt.Errorf("find out how much memory is free: %w", err)
	}
	left *= 1024
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return left, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find out how much memory is free: %w", err)
	}
	// Lines are ID:CONTROLLERS:PATH, with no controllers for version 2 (cgroups(7)).
	for line := range strings.Lines(string(groups)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		switch f[1] {
		case "":
			left = min(left, groupLeft(root, "sys/fs/cgroup", f[2], "memory.max", "memory.current", "inactive_file"))
		case "memory":
			left = min(left, groupLeft(root, "sys/fs/cgroup/memory", f[2], "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))
		}
	}
	return left, nil
}

// groupLeft returns what the group and all those above it have left. What can't
// be read sets no limit: in a container a group's path may be that of the host.
func groupLeft(root fs.FS, mount, group, limit, usage, reclaimable string) uint64 {
	left := uint64(math.MaxUint64)
	for at := path.Join("/", group); ; at = path.Dir(at) {
		dir := path.Join(mount, at)
		most, err1 := number(root, path.Join(dir, limit))
		used, err2 := number(root, path.Join(dir, usage))
		if err1 == nil && err2 == nil {
			// The page cache counts as used, but gives way.
			cache, err := field(root, path.Join(dir, "memory.stat"), reclaimable)
			if err != nil {
				cache = 0
			}
			used -= min(used, cache)
			left = min(left, most-min(most, used))
		}
		if at == "/" {
			return left
		}
	}
}

// number reads a file with one number. The word max of version 2 is an error:
// no limit.
func number(root fs.FS, name string) (uint64, error) {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

// field reads the number after a name in a file of one name on each line.
func field(root fs.FS, file, name string) (uint64, error) {
	b, err := fs.ReadFile(root, file)
	if err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) >= 2 && f[0] == name {
			return strconv.ParseUint(f[1], 10, 54)
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, name)
}
