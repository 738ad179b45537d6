package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"snap/capture"
	"snap/cmd/snap/internal/table"
	"snap/hv"
)

// listTimeout bounds how long snap list looks at one domain.
const listTimeout = 20 * time.Second

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
}

func newListCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [flags]",
		Short: "List the domains: state, memory, whether it is Windows, which modes work",
		Long: `List all domains of the connection. The memory of those that run is looked at,
without pausing them, to tell whether Windows is in it.`,
		Args:        cobra.NoArgs,
		Annotations: exitCodes(exitDenied),
		Example:     "  snap list -c qemu:///system",
		RunE:        func(cmd *cobra.Command, _ []string) error { return a.list(cmd.Context()) },
	}
	addConnectFlag(cmd, a)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON")
	return cmd
}

func (a *app) list(ctx context.Context) error {
	domains, err := a.domains(ctx)
	if err != nil {
		return fmt.Errorf("list domains: %w", err)
	}
	entries := []listEntry{}
	for _, d := range domains {
		entries = append(entries, a.listDomain(ctx, d))
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("list domains: %w", err)
		}
	}
	if a.json {
		return a.printJSON(entries)
	}
	t := table.Table{
		Columns: []string{"NAME", "STATE", "MEMORY", "CPUS", "GUEST", "SOURCE", "MODES"},
		Right:   map[string]bool{"MEMORY": true, "CPUS": true},
	}
	for _, e := range entries {
		t.Add(e.Name, string(e.State), humanize.IBytes(e.Memory), strconv.Itoa(e.CPUs), e.Guest, dash(e.Source), dash(strings.Join(e.Modes, ", ")))
	}
	if err := t.Write(a.stdout, ""); err != nil {
		return err
	}
	for _, e := range entries {
		if e.Why != "" {
			a.log.Debug().Str("domain", e.Name).Msg(e.Why)
		}
	}
	return nil
}

// listDomain looks into one domain. What fails is said in the entry.
func (a *app) listDomain(ctx context.Context, d hv.DomainInfo) listEntry {
	e := listEntry{Name: d.Name, UUID: d.UUID, State: d.State, Memory: d.Memory, CPUs: d.CPUs, Guest: "-", Modes: []string{}}
	if d.State != hv.StateRunning && d.State != hv.StatePaused {
		return e
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	if err := a.lookForList(ctx, &e); err != nil {
		e.Why = err.Error()
		switch code, _ := classify(err); code {
		case exitNotWindows:
			e.Guest = "not Windows"
		default:
			e.Guest = "? (" + shortReason(code) + ")"
		}
	}
	return e
}

func (a *app) lookForList(ctx context.Context, e *listEntry) error {
	vm, closeVM, err := a.openDomain(ctx, e.Name)
	if err != nil {
		return err
	}
	defer closeVM()
	sess, err := capture.Open(ctx, vm, capture.Options{
		Tries: 1, // most domains are no Windows at all
		Look:  capture.LookOptions{Exclusion: capture.Exclusion{NoAdvertised: true}},
	})
	if err != nil {
		return err
	}
	defer sess.Close()
	e.Source = string(sess.Memory.Mechanism())
	e.Guest = sess.Analysis.System.Name()
	for _, mode := range capture.Modes() {
		if mode.Check(ctx, vm) == nil {
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
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
