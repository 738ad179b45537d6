package limits

import (
	"fmt"
	"os"
)

// KilledFirst has the kernel end this process before any other, should the host run
// out of memory: those that run guests are larger (proc_pid_oom_score_adj(5)). What
// it starts later on would be ended as early.
func KilledFirst() error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		return fmt.Errorf("be what the host ends first if it lacks memory: %w", err)
	}
	return nil
}
