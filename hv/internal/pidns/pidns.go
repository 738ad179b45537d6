// Package pidns tells the numbers of one process in PID namespaces from each other.
package pidns

import (
	"fmt"
	"os"
	"strings"
)

// Numbers returns the numbers that a process has, from that in the PID namespace which
// the file system at proc is of to that in its own; there is one at least (NSpid in
// proc_pid_status(5), since Linux 4.1). They are there for everybody to read; the link
// /proc/PID/ns/pid isn't.
func Numbers(proc string, pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("%s/%d/status", proc, pid))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			if numbers := strings.Fields(rest); len(numbers) > 0 {
				return numbers, nil
			}
		}
	}
	return nil, fmt.Errorf("%s/%d/status has no NSpid", proc, pid)
}
