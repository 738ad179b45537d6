package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/digitalocean/go-libvirt/socket"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	"snap/hv"
)

// dialTimeout bounds the way to the daemon: a socket, and for ssh and tls the
// handshakes on top of it.
const dialTimeout = 20 * time.Second

// systemSockets are where the daemons for qemu:///system listen: the modular one
// first, as libvirt's own client has it (src/remote/remote_sockets.c).
var systemSockets = []string{"/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"}

// target is a parsed connection URI.
type target struct {
	uri    string
	driver string // the URI as the daemon knows it, e.g. qemu:///system
	local  bool   // over a unix socket, so the guests probably run on this host
	dial   func(ctx context.Context) (net.Conn, error)
}

// parseTarget reads a libvirt connection URI. It touches nothing.
func parseTarget(uri string) (*target, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, fmt.Errorf("connection URI %q: %w: %w", uri, hv.ErrURI, err)
	}
	driver, transport, _ := strings.Cut(u.Scheme, "+")
	if driver != "qemu" {
		return nil, fmt.Errorf("connection URI %q: driver %q: %w: only QEMU guests can be read",
			uri, driver, hv.ErrURI)
	}
	path := strings.TrimSuffix(u.Path, "/")
	if path != "/system" && path != "/session" {
		return nil, fmt.Errorf("connection URI %q: path must be /system or /session: %w", uri, hv.ErrURI)
	}
	if transport == "" {
		transport = "unix"
		if u.Host != "" {
			transport = "tls"
		}
	}
	t := &target{uri: uri, driver: "qemu://" + path}
	if name := u.Query().Get("name"); name != "" {
		t.driver = name
	}
	t.dial, err = transportOf(u, transport, path)
	if err != nil {
		return nil, fmt.Errorf("connection URI %q: %w: %w", uri, hv.ErrURI, err)
	}
	t.local = transport == "unix"
	return t, nil
}

func transportOf(u *url.URL, transport, path string) (func(context.Context) (net.Conn, error), error) {
	if transport != "unix" && u.Hostname() == "" {
		return nil, fmt.Errorf("transport %s needs a host name", transport)
	}
	switch transport {
	case "unix":
		if s := u.Query().Get("socket"); s != "" {
			return dialSockets([]string{s}, ""), nil
		}
		if path == "/session" {
			return dialSockets(sessionSockets(), "virsh -c qemu:///session list"), nil
		}
		return dialSockets(systemSockets, "systemctl start virtqemud.socket || systemctl start libvirtd"), nil
	case "tcp":
		return dialTCP(u), nil
	case "tls":
		return dialTLS(u)
	case "ssh":
		return dialSSH(u, path)
	}
	return nil, fmt.Errorf("transport %q: use unix, ssh, tls or tcp", transport)
}

// sessionSockets returns where a user's own daemon listens (virGetUserRuntimeDirectory
// in libvirt's src/util/virutil.c).
func sessionSockets() []string {
	var dir string
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
		dir = filepath.Join(run, "libvirt")
	} else if cache, err := os.UserCacheDir(); err == nil {
		dir = filepath.Join(cache, "libvirt")
	}
	return []string{filepath.Join(dir, "virtqemud-sock"), filepath.Join(dir, "libvirt-sock")}
}

// dialSockets tries unix sockets in turn. start is the command that makes the
// daemon listen, for the error.
func dialSockets(paths []string, start string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var errs []error
		absent := true
		for _, p := range paths {
			d := net.Dialer{}
			conn, err := d.DialContext(ctx, "unix", p)
			if err == nil {
				return conn, nil
			}
			if errors.Is(err, fs.ErrPermission) {
				return nil, fmt.Errorf("%w: %w; join the group that owns the socket (libvirt on most systems) or run as root",
					hv.ErrDenied, err)
			}
			absent = absent && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED))
			errs = append(errs, err)
		}
		err := errors.Join(errs...)
		if absent && start != "" {
			return nil, fmt.Errorf("no libvirt daemon listens; start it with `%s`: %w", start, flat(err))
		}
		return nil, flat(err)
	}
}

// flatError shows joined errors on one line.
type flatError struct{ err error }

func flat(err error) error { return flatError{err} }

func (e flatError) Error() string { return strings.ReplaceAll(e.err.Error(), "\n", "; ") }
func (e flatError) Unwrap() error { return e.err }

func dialTCP(u *url.URL) func(context.Context) (net.Conn, error) {
	port := u.Port()
	if port == "" {
		port = "16509" // LIBVIRTD_TCP_PORT
	}
	return func(ctx context.Context) (net.Conn, error) {
		d := net.Dialer{}
		return d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	}
}

func dialTLS(u *url.URL) (func(context.Context) (net.Conn, error), error) {
	var opts []dialers.TLSOption
	if p := u.Port(); p != "" {
		opts = append(opts, dialers.UseTLSPort(p))
	}
	if p := u.Query().Get("pkipath"); p != "" {
		opts = append(opts, dialers.UsePKIPath(p))
	}
	if unverified(u) {
		opts = append(opts, dialers.WithInsecureNoVerify())
	}
	d := dialers.NewTLS(u.Hostname(), opts...)
	return func(ctx context.Context) (net.Conn, error) { return dialWith(ctx, d) }, nil
}

func unverified(u *url.URL) bool {
	v := u.Query().Get("no_verify")
	return v != "" && v != "0"
}

// dialWith runs a dialer that knows no context. What it still brings after ctx
// has ended is closed.
func dialWith(ctx context.Context, d socket.Dialer) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := d.Dial()
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		return r.conn, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				_ = r.conn.Close() // nobody waits for it any more
			}
		}()
		return nil, ctx.Err()
	}
}
