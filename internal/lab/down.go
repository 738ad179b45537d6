package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Close is Down.
func (g *Guest) Close() error { return g.Down() }

// Down ends the guest and removes all that belongs to it.
func (g *Guest) Down() error {
	return errors.Join(down(g.Connection, g.Name, g.dir), g.starting.Close())
}

// Down ends the guest called name, without Prefix, that another process has
// started.
func Down(ctx context.Context, k Kind, name string) error {
	if !nameRE.MatchString(name) {
		return fmt.Errorf("no lab guest can have the name %q", name)
	}
	c, err := Open(ctx, k)
	if err != nil {
		return err
	}
	dir, err := c.dir(name)
	if err == nil {
		_, err = os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("no lab guest %s on %s", name, c.URI)
		}
	}
	if err != nil {
		return errors.Join(err, c.Close())
	}
	return down(c, Prefix+name, dir)
}

// down ends a domain, then removes what belongs to it.
func down(c *Connection, domain, dir string) error {
	if err := remove(c, domain); err != nil {
		return errors.Join(err, c.Close()) // its folder says that there is something left
	}
	return errors.Join(returnHugepages(dir), os.RemoveAll(dir), c.Close())
}

// remove destroys and undefines a domain, in so far as it exists.
func remove(c *Connection, name string) error {
	ctx := context.Background() // cleaning up is not cut short
	for _, step := range []struct {
		flag string
		do   []string
	}{
		{"--state-running", []string{"destroy", name}},
		{"--state-paused", []string{"destroy", name}},
		{"--state-other", []string{"destroy", name}},
		{"--persistent", []string{"undefine", name}},
	} {
		there, err := c.has(ctx, name, step.flag)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		if _, err := c.Virsh(ctx, step.do...); err != nil {
			// It may have ended by itself meanwhile.
			if there, again := c.has(ctx, name, step.flag); there || again != nil {
				return errors.Join(err, again)
			}
		}
	}
	return nil
}

// Names returns the names, without Prefix, of the guests that have left
// something on this host: those that Down ends.
func Names(k Kind) ([]string, error) {
	c := &Connection{Kind: k}
	dir, err := c.dir("")
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}

// List returns the names of the lab's domains, without Prefix, and the state
// of each.
func List(ctx context.Context, k Kind) (map[string]string, error) {
	c, err := Open(ctx, k)
	if err != nil {
		return nil, err
	}
	out, err := list(ctx, c)
	return out, errors.Join(err, c.Close())
}

func list(ctx context.Context, c *Connection) (map[string]string, error) {
	names, err := c.Virsh(ctx, "list", "--all", "--name")
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, n := range strings.Fields(names) {
		short, ok := strings.CutPrefix(n, Prefix)
		if !ok {
			continue
		}
		state, err := c.Virsh(ctx, "domstate", n)
		if err != nil {
			// Others end their guests while this one looks.
			if there, again := c.has(ctx, n); there || again != nil {
				return nil, errors.Join(err, again)
			}
			continue
		}
		out[short] = strings.TrimSpace(state)
	}
	return out, nil
}

// has reports whether there is a domain of a name, of those that flags of virsh list
// choose.
func (c *Connection) has(ctx context.Context, domain string, flags ...string) (bool, error) {
	names, err := c.Virsh(ctx, append([]string{"list", "--all", "--name"}, flags...)...)
	return slices.Contains(strings.Fields(names), domain), err
}
