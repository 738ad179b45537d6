package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"snap/hv"
	"snap/hv/connect"
)

// defaultConnect is where snap connects unless told otherwise.
func defaultConnect() string {
	if uri := os.Getenv("LIBVIRT_DEFAULT_URI"); uri != "" {
		return uri
	}
	return "qemu:///system"
}

// completeIn bounds how long a shell waits for the names of domains.
const completeIn = 3 * time.Second

// addConnectFlag gives cmd the -c flag and completion of domain names.
func addConnectFlag(cmd *cobra.Command, a *app) {
	cmd.Flags().StringVarP(&a.connect, "connect", "c", defaultConnect(),
		"`URI` of the host: "+strings.Join(uriForms(), ", ")+";\nlab has built-in synthetic guests")
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeIn)
		defer cancel()
		domains, err := a.domains(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, d := range domains {
			if strings.HasPrefix(d.Name, prefix) {
				names = append(names, d.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// openConnection opens the connection that -c names.
func (a *app) openConnection(ctx context.Context) (hv.Connection, error) {
	if a.connect == "" {
		return nil, wrongValue("connect", "", "a URI like "+alternatives(uriForms()))
	}
	return connect.Open(ctx, a.connect)
}

// checkURI fails if -c can't be a URI of a host. It connects to nobody.
func (a *app) checkURI(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	conn, err := a.openConnection(ctx)
	if err == nil {
		return conn.Close()
	}
	if code, _ := classify(err); code == exitUsage {
		return err
	}
	return nil
}

// domains lists the connection's domains.
func (a *app) domains(ctx context.Context) ([]hv.DomainInfo, error) {
	conn, err := a.openConnection(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.Domains(ctx)
}

// openDomain finds a domain on the connection. The returned function closes
// the domain and the connection.
func (a *app) openDomain(ctx context.Context, ref string) (hv.VM, func(), error) {
	conn, err := a.openConnection(ctx)
	if err != nil {
		return nil, nil, err
	}
	vm, err := conn.Lookup(ctx, ref)
	if err != nil {
		if errors.Is(err, hv.ErrNoDomain) {
			err = a.suggestDomain(ctx, conn, ref, err)
		}
		_ = conn.Close()
		return nil, nil, err
	}
	return vm, func() { _ = vm.Close(); _ = conn.Close() }, nil
}

// readable fails unless the domain has memory that may be read, in mode live at
// least, and nothing else is at work on it.
func readable(ctx context.Context, vm hv.VM) (hv.State, error) {
	state, err := vm.State(ctx)
	if err != nil {
		return state, err
	}
	if err := state.Check(vm.Identity(), true); err != nil {
		return state, err
	}
	return state, vm.CheckJob(ctx)
}

// uriForms are the forms of URIs that can be connected to.
func uriForms() []string {
	var out []string
	for _, d := range connect.Drivers() {
		out = append(out, d.Examples...)
	}
	return out
}

// suggestIn bounds how long a connection is asked for what was perhaps meant.
const suggestIn = 5 * time.Second

// suggestDomain adds to err, that there is no domain ref, which one was perhaps
// meant.
func (a *app) suggestDomain(ctx context.Context, conn hv.Connection, ref string, err error) error {
	ctx, cancel := context.WithTimeout(ctx, suggestIn)
	defer cancel()
	domains, lerr := conn.Domains(ctx)
	if lerr != nil {
		return err
	}
	var names []string
	for _, d := range domains {
		names = append(names, d.Name)
	}
	list := a.call.snap("list") + " shows the domains of this connection"
	if meant := didYouMean(ref, names); meant != "" {
		return next(err, "%s %s", meant, list)
	}
	return next(err, "%s", list)
}
