package guardian

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// leaveCgroup moves this process out of the control groups by which snap may be
// stopped or killed together with it: to the root of those that freeze processes,
// and of systemd's, which units are. Only root may do that, and in a container the
// root is often one's own: then it stays where it is.
func leaveCgroup() {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return
	}
	defer mounts.Close()
	in := bufio.NewScanner(mounts)
	for in.Scan() {
		if dir := freezes(in.Text(), string(own)); dir != "" {
			// Where it may not be done there is nothing else to do.
			_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o600)
		}
	}
}

// freezes returns where a file system is mounted, as a line of /proc/self/mountinfo
// has it, if it is one of those control groups (proc_pid_mountinfo(5), cgroups(7))
// and a process with the given /proc/self/cgroup isn't at its root.
func freezes(mount, own string) string {
	left, right, ok := strings.Cut(mount, " - ")
	l, r := strings.Fields(left), strings.Fields(right)
	if !ok || len(l) < 5 || len(r) < 3 {
		return ""
	}
	var controller string
	options := strings.Split(r[2], ",")
	switch {
	case r[0] == "cgroup2":
	case r[0] == "cgroup" && slices.Contains(options, "freezer"):
		controller = "freezer"
	case r[0] == "cgroup" && slices.Contains(options, "name=systemd"):
		controller = "name=systemd"
	default:
		return ""
	}
	for line := range strings.Lines(own) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3) // number:controllers:path
		if len(f) == 3 && (f[1] == controller || controller != "" && slices.Contains(strings.Split(f[1], ","), controller)) && f[2] != "/" {
			return l[4]
		}
	}
	return ""
}
