package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"snap/capture"
	"snap/cmd/snap/internal/table"
	"snap/guest"
	"snap/hv"
)

// Bounds on looking at domains: a domain that is locked, or whose QEMU stands
// still, must not keep the others from being listed.
const (
	listTimeout  = 20 * time.Second // for one domain
	listTogether = 4                // domains that are looked at at a time
)

// listEntry is a domain as snap list shows it.
type listEntry struct {
	Name   string   `json:"name"`
	UUID   string   `json:"uuid,omitempty"`
	State  hv.State `json:"state"`
	Memory uint64   `json:"memory"` // bytes
	CPUs   int      `json:"cpus"`
	Guest  string   `json:"guest"`            // what is in it
	Source string   `json:"source,omitempty"` // how its memory would be read
	Modes  []string `json:"modes"`
	Why    string   `json:"why,omitempty"` // why there is no mode

	Reason guest.Reason `json:"reason,omitempty"` // why there is no Windows
}

func newListCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [flags]",
		Short: "List the domains: state, memory, whether it is Windows, which modes work",
		Long: `List all domains of the connection. The memory of those that run is looked at,
without pausing them, to tell whether Windows is in it. A domain of which nothing
is known in time, because another job has it locked or its QEMU stands still, is
listed with "no answer"; -v says of each what was in the way.`,
		Args:        cobra.NoArgs,
		Annotations: exitCodes(exitDenied),
		Example:     "  snap list -c qemu:///system",
		RunE:        func(cmd *cobra.Command, _ []string) error { return a.list(cmd.Context()) },
	}
	addConnectFlag(cmd, a)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	addRequireFlag(cmd, a, "look at no guest by way of a file of libvirt's on a disk")
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON")
	return cmd
}

func (a *app) list(ctx context.Context) error {
	domains, err := a.domains(ctx)
	if err != nil {
		return fmt.Errorf("list domains: %w", err)
	}
	entries := a.listDomains(ctx, domains)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("list domains: %w", err)
	}
	if a.json {
		return a.printJSON(entries)
	}
	if err := listTable(entries, terminalColumns(a.stdout)).Write(a.stdout, ""); err != nil {
		return err
	}
	for _, e := range entries {
		if e.Why != "" {
			a.log.Debug().Str("domain", e.Name).Msg(e.Why)
		}
	}
	return nil
}

// listDomains looks into some domains at a time.
func (a *app) listDomains(ctx context.Context, domains []hv.DomainInfo) []listEntry {
	entries := make([]listEntry, len(domains))
	turns := make(chan struct{}, listTogether)
	var all sync.WaitGroup
	for i, d := range domains {
		turns <- struct{}{}
		all.Go(func() {
			entries[i] = a.listDomain(ctx, d)
			<-turns
		})
	}
	all.Wait()
	return entries
}

// listTable is what people see of the entries in so many columns of a terminal; 0 is
// any number, for programs that read it line by line.
func listTable(entries []listEntry, columns int) *table.Table {
	t := &table.Table{
		Columns: []string{"NAME", "STATE", "MEMORY", "CPUS", "GUEST", "SOURCE", "MODES"},
		Right:   map[string]bool{"MEMORY": true, "CPUS": true},
		Width:   columns,
	}
	if columns < 100 {
		t.Most = map[string]int{"NAME": 16, "GUEST": 16}
	}
	for _, e := range entries {
		t.Add(e.Name, string(e.State), humanize.IBytes(e.Memory), strconv.Itoa(e.CPUs), e.Guest, dash(e.Source), dash(strings.Join(e.Modes, ", ")))
	}
	return t
}

// listDomain looks into one domain. What fails is said in the entry.
func (a *app) listDomain(ctx context.Context, d hv.DomainInfo) listEntry {
	e := listEntry{Name: d.Name, UUID: d.UUID, State: d.State, Memory: d.Memory, CPUs: d.CPUs, Guest: "-", Modes: []string{}}
	if d.Err != nil {
		e.Guest, e.Why = unknownGuest(d.Err), d.Err.Error()
		return e
	}
	if err := d.State.Check(hv.Identity{Name: d.Name}, true); err != nil {
		if !d.State.Off() {
			e.Guest, e.Why = unknownGuest(err), err.Error()
		}
		return e
	}
	ctx, cancel := context.WithTimeoutCause(ctx, listTimeout, fmt.Errorf("%w within %v", hv.ErrNoAnswer, listTimeout))
	defer cancel()
	if err := a.lookForList(ctx, &e); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = context.Cause(ctx)
		}
		e.Guest, e.Why = unknownGuest(err), err.Error()
		if none, ok := errors.AsType[*guest.NotFoundError](err); ok {
			e.Reason = none.Reason
		}
	}
	return e
}

// unknownGuest is what is said of a guest that could not be looked at.
func unknownGuest(err error) string {
	code, _ := classify(err)
	switch {
	case code == exitNotWindows:
		return withoutWindows(err)
	case errors.Is(err, hv.ErrNoAnswer):
		return "? (no answer)"
	}
	return "? (" + shortReason(code) + ")"
}

func (a *app) lookForList(ctx context.Context, e *listEntry) error {
	vm, closeVM, err := a.openDomain(ctx, e.Name)
	if err != nil {
		return err
	}
	defer closeVM()
	mechanism, err := a.mechanism(hv.MechanismAuto)
	if err != nil {
		return err // can't be: nobody asked for peek
	}
	sess, err := capture.Open(ctx, vm, capture.Options{
		Mechanism: mechanism,
		Tries:     1, // most domains are no Windows at all
		Look:      capture.LookOptions{Exclusion: capture.Exclusion{NoAdvertised: true}},
	})
	if err != nil {
		return err
	}
	defer sess.Close()
	e.Source = string(sess.Memory.Mechanism())
	e.Guest = sess.Analysis.System.Name()
	for _, mode := range capture.Modes() {
		if e.State.Check(vm.Identity(), !mode.Consistent()) == nil && mode.Check(ctx, vm) == nil {
			e.Modes = append(e.Modes, mode.Name())
		}
	}
	return nil
}

func shortReason(code int) string {
	switch code {
	case exitDenied:
		return "not allowed"
	case exitConfidential:
		return "confidential"
	case exitBusy:
		return "busy"
	default:
		return "unreadable"
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// printJSON prints v on standard output.
func (a *app) printJSON(v any) error {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := a.stdout.Write(plainJSON(out.Bytes()))
	return err
}
