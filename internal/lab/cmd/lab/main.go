// Command lab runs lab guests: up, down, list. See scripts/lab.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"snap/internal/lab"
	"snap/internal/ntlab"
	"snap/internal/ntlab/boot"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(os.Stdout).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func command(out io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:           "scripts/lab",
		Short:         "Run guests to try snap on, under this machine's libvirt",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	connect := root.PersistentFlags().String("connect", "qemu:///system", "libvirt to use: qemu:///system, qemu:///session, or kvm, which guests under KVM are on")
	root.AddCommand(upCommand(out, connect), downCommand(out, connect), listCommand(out, connect), accelCommand(out))
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(out)
	return root
}

// kindOf takes a URI or its last word.
func kindOf(uri string) (lab.Kind, error) {
	k := lab.Kind(strings.TrimPrefix(uri, "qemu:///"))
	if k != lab.System && k != lab.Session && k != lab.OwnKVM {
		return "", fmt.Errorf("connect to %q: the lab runs on qemu:///system, on qemu:///session and, under KVM, on %s", uri, lab.OwnKVM)
	}
	return k, nil
}

var modes = map[string]boot.Mode{"paced": boot.Paced, "busy": boot.Busy, "idle": boot.Idle}

func upCommand(out io.Writer, connect *string) *cobra.Command {
	var s lab.Spec
	var mode string
	var linux, off bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "up",
		Short: "Start a guest and wait until it runs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			var ok bool
			if s.Mode, ok = modes[mode]; !ok {
				return fmt.Errorf("mode %q is none of paced, busy and idle", mode)
			}
			if s.Accel != lab.TCG && !cmd.Flags().Changed("fill") {
				s.FillMiB = 8
			}
			// A guest under KVM has a connection of its own.
			if cmd.Flags().Changed("connect") || s.Accel == lab.TCG {
				var err error
				if s.Connect, err = kindOf(*connect); err != nil {
					return err
				}
			}
			start := lab.Up
			switch {
			case linux && off:
				return errors.New("--linux and --off exclude each other")
			case linux:
				start = lab.UpLinux
			case off:
				start = lab.Off
			}
			g, err := start(ctx, s)
			if err != nil {
				return err
			}
			return describe(out, g)
		},
	}
	f := c.Flags()
	f.StringVar(&s.Name, "name", "win", "name; the domain is called "+lab.Prefix+"NAME")
	f.StringVar(&s.Profile, "profile", ntlab.Profiles()[0], "Windows: "+strings.Join(slices.Concat(ntlab.Profiles(), ntlab.Generations()), ", "))
	f.StringVar((*string)(&s.Accel), "accel", string(lab.TCG), "what runs its processors: tcg, kvm, or auto for kvm where it works; under kvm it is on --connect kvm")
	f.Uint64Var(&s.MemoryMiB, "memory", 512, "RAM in MiB")
	f.IntVar(&s.CPUs, "cpus", 4, "processors")
	f.StringVar((*string)(&s.Backing), "backing", string(lab.Anonymous), "RAM on the host: anon, memfd or hugetlb")
	f.BoolVar(&s.NewerQEMU, "newer-qemu", false, "run it under the QEMU of Debian's backports, for mode snapshot")
	f.StringVar(&s.Machine, "machine", "q35", "q35 or i440fx")
	f.Uint64Var(&s.Seed, "seed", 1, "where all that is random in the guest comes from")
	f.Uint64Var(&s.FillMiB, "fill", 128, "MiB of free memory to fill with zeros, text, structures and random bytes; 8 with another --accel than tcg, for not every KVM is fast")
	f.BoolVar(&s.PlainKDBG, "plain", false, "leave the KDBG decoded, as booting with a debugger does")
	f.BoolVar(&s.KPTI, "kpti", false, "give processes a user page table of their own")
	f.BoolVar(&s.LA57, "la57", false, "page with 5 levels; only under TCG")
	f.BoolVar(&s.UserMode, "user", false, "processors but the first run in user mode")
	f.IntVar(&s.Advert, "advert", 0, "entries of a table of pages to leave out that a driver keeps changing, an even number")
	f.StringVar(&mode, "mode", "paced", "processors write once per millisecond (paced; busy under kvm), all the time (busy) or never (idle)")
	f.BoolVar(&linux, "linux", false, "a Linux instead of Windows")
	f.BoolVar(&off, "off", false, "define the domain, but don't start it")
	f.DurationVar(&timeout, "timeout", 2*time.Minute, "give up after so long")
	return c
}

// describe prints where the guest is.
func describe(out io.Writer, g *lab.Guest) error {
	var b strings.Builder
	row := func(key, format string, args ...any) {
		b.WriteString(key + "\t" + fmt.Sprintf(format, args...) + "\n")
	}
	row("domain", "%s", g.Name)
	row("URI", "%s", g.URI)
	if u := g.User; u != nil {
		row("user", "%s (XDG_RUNTIME_DIR=%s)", u.Name, u.RuntimeDir)
	}
	row("accelerator", "%s", g.Spec.Accel)
	row("memory", "%d MiB, %s, %s", g.Spec.MemoryMiB, g.Spec.Backing, g.Spec.Machine)
	row("processors", "%d", g.Spec.CPUs)
	if g.Image != nil {
		t := &g.Image.Truth
		row("Windows", "%s, build %d", g.Spec.Profile, t.Build)
		row("system CR3", "%#x", uint64(t.DirectoryTableBase))
		row("kernel", "%#x", uint64(t.KernelBase))
	}
	return table(out, b.String())
}

// table prints lines of cells that tabs separate, in columns.
func table(out io.Writer, lines string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if _, err := io.WriteString(w, lines); err != nil {
		return err
	}
	return w.Flush()
}

func downCommand(out io.Writer, connect *string) *cobra.Command {
	var name string
	var all bool
	c := &cobra.Command{
		Use:   "down",
		Short: "End a guest, or --all of them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			k, err := kindOf(*connect)
			if err != nil {
				return err
			}
			names := []string{name}
			if all {
				if names, err = lab.Names(k); err != nil {
					return err
				}
			}
			var errs []error
			for _, n := range names {
				if err := lab.Down(cmd.Context(), k, n); err != nil {
					errs = append(errs, err)
					continue
				}
				if _, err := fmt.Fprintf(out, "%s%s is gone\n", lab.Prefix, n); err != nil {
					return err
				}
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().StringVar(&name, "name", "win", "name given to up")
	c.Flags().BoolVar(&all, "all", false, "every guest of the lab on this connection")
	return c
}

func listCommand(out io.Writer, connect *string) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Print the lab's guests and their states",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			k, err := kindOf(*connect)
			if err != nil {
				return err
			}
			states, err := lab.List(cmd.Context(), k)
			if err != nil {
				return err
			}
			var b strings.Builder
			for _, n := range slices.Sorted(maps.Keys(states)) {
				b.WriteString(n + "\t" + lab.Prefix + n + "\t" + states[n] + "\n")
			}
			return table(out, b.String())
		},
	}
}

func accelCommand(out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "accel",
		Short: "Print what up --accel auto runs processors with here, and why",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, why := lab.Accelerator()
			_, err := fmt.Fprintln(out, "accelerator:", why)
			return err
		},
	}
}
