package capture

import (
	"context"

	"snap/guest"
)

// findLacks collects what of the guest could not be read that debuggers need, and
// follows its lists to their ends. It returns the processes, as far as the list goes.
func (a *Analysis) findLacks(ctx context.Context) []guest.Process {
	for _, l := range a.System.Lacks {
		a.lacks = append(a.lacks, l)
		a.Contents = append(a.Contents, l.Means) // Warnings has it already
	}
	modules, err := a.System.Modules(ctx)
	if err != nil && ctx.Err() == nil {
		a.lack("the list of modules is broken",
			"the list of modules is broken after %s (%v): debuggers list no drivers beyond, nor load their symbols", counted(len(modules), "module"), err)
	}
	processes, err := a.System.Processes(ctx)
	if err != nil && ctx.Err() == nil {
		a.lack("the list of processes is broken",
			"the list of processes is broken after %s (%v): debuggers list no processes beyond", counted(len(processes), "link"), err)
	}
	return processes
}

// lack says in a few words what debuggers need and can't be read, and in sentences
// what that means.
func (a *Analysis) lack(what, format string, args ...any) {
	a.warnOfContents(format, args...)
	a.lacks = append(a.lacks, guest.Lack{What: what, Means: a.Warnings[len(a.Warnings)-1]})
}

// whatLacks returns the few words of each.
func whatLacks(of []guest.Lack) []string {
	var out []string
	for _, l := range of {
		out = append(out, l.What)
	}
	return out
}
