package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// keepPrivate has the kernel write no core dump of this process, whatever the limits
// and wherever core dumps go, and let no other process but root's look into its
// memory: pages of guests are in it, those among them that are to be left out of the
// dump (prctl(2), PR_SET_DUMPABLE). What it starts is not kept so: its guardian has no
// pages.
func keepPrivate() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keep this process out of core dumps: %w", err)
	}
	return nil
}
