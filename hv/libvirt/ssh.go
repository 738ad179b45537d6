package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os/user"
	"strings"

	"github.com/digitalocean/go-libvirt/socket/dialers"

	"snap/hv"
)

// dialSSH reaches the daemon's socket on another host with Go's own SSH client:
// it reads ~/.ssh/known_hosts, the agent and the usual key files, but not
// ~/.ssh/config.
func dialSSH(u *url.URL, path string) (func(context.Context) (net.Conn, error), error) {
	sockets := systemSockets
	if s := u.Query().Get("socket"); s != "" {
		sockets = []string{s}
	} else if path == "/session" {
		return nil, fmt.Errorf("%w: a session daemon over ssh needs ?socket= with its path on %s",
			hv.ErrUnsupported, u.Hostname())
	}
	self, err := user.Current()
	if err != nil {
		return nil, fmt.Errorf("find the user for ssh: %w", err)
	}
	return func(ctx context.Context) (net.Conn, error) {
		var errs []error
		for _, s := range sockets {
			opts := append(sshOptions(u, self), dialers.WithRemoteSocket(s))
			conn, err := dialWith(ctx, dialers.NewSSH(u.Hostname(), opts...))
			if err == nil {
				return newDetachable(conn), nil
			}
			errs = append(errs, err)
			// Only a missing socket is worth another try: the dialer has no type for it.
			if !strings.Contains(err.Error(), "remote libvirt socket") {
				break
			}
		}
		return nil, flat(errors.Join(errs...))
	}, nil
}

func sshOptions(u *url.URL, self *user.User) []dialers.SSHOption {
	opts := []dialers.SSHOption{dialers.WithSystemSSHDefaults(self)}
	if p := u.Port(); p != "" {
		opts = append(opts, dialers.UseSSHPort(p))
	}
	if name := u.User.Username(); name != "" {
		opts = append(opts, dialers.UseSSHUsername(name))
	}
	if pw, ok := u.User.Password(); ok {
		opts = append(opts, dialers.UseSSHPassword(pw))
	}
	if f := u.Query().Get("keyfile"); f != "" {
		opts = append(opts, dialers.UseKeyFile(f))
	}
	if unverified(u) {
		opts = append(opts, dialers.WithInsecureIgnoreHostKey())
	}
	return opts
}

// detachable makes Close end a pending Read at once. An SSH channel's own Close
// only asks the other side to close, which a host that is gone never does.
type detachable struct {
	net.Conn
	r *io.PipeReader
}

func newDetachable(conn net.Conn) *detachable {
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, conn)
		_ = w.CloseWithError(err) // never fails; nil becomes io.EOF
	}()
	return &detachable{conn, r}
}

func (d *detachable) Read(p []byte) (int, error) { return d.r.Read(p) }

func (d *detachable) Close() error {
	err := d.r.CloseWithError(net.ErrClosed)
	go d.Conn.Close()
	return err
}
