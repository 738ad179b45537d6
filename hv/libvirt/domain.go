package libvirt

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	rpc "github.com/digitalocean/go-libvirt"

	"snap/hv"
	"snap/hv/internal/bounded"
	"snap/hv/qemu"
)

// maxDomains bounds a list of domains (REMOTE_DOMAIN_LIST_MAX in libvirt's
// src/remote/remote_protocol.x).
const maxDomains = 16384

// Bounds on a list of domains: libvirtd answers nothing about a domain while
// another call has it locked.
const (
	// listTimeout bounds the call that names all domains, and infoTimeout the one
	// that asks for one of them.
	listTimeout = 20 * time.Second
	infoTimeout = 5 * time.Second
	// maxSilent is for how many domains in a row nothing is answered before the
	// daemon itself counts as the one that doesn't.
	maxSilent = 3
)

// Domains implements hv.Connection.
func (c *Conn) Domains(ctx context.Context) ([]hv.DomainInfo, error) {
	listing, cancel := bounded.Within(ctx, listTimeout)
	defer cancel()
	doms, err := query(listing, c, "list domains", func(l *rpc.Libvirt) ([]rpc.Domain, error) {
		doms, _, err := l.ConnectListAllDomains(1, rpc.ConnectListDomainsActive|rpc.ConnectListDomainsInactive)
		return doms, err
	})
	if err != nil {
		return nil, err
	}
	if len(doms) > maxDomains {
		return nil, fmt.Errorf("list domains on %s: %w: daemon sent %d, more than %d", c.URI(), hv.ErrNotUnderstood, len(doms), maxDomains)
	}
	out := make([]hv.DomainInfo, 0, len(doms))
	silent := 0 // in a row
	for _, dom := range doms {
		info, err := c.info(ctx, dom)
		switch {
		case errors.Is(err, hv.ErrNoDomain):
			continue
		case errors.Is(err, hv.ErrNoAnswer) && ctx.Err() == nil:
			if silent++; silent >= maxSilent {
				return nil, err
			}
			info = unknown(dom, err)
		case isAnswer(err):
			silent, info = 0, unknown(dom, err) // it says no, about this domain
		case err != nil:
			return nil, err
		default:
			silent = 0
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b hv.DomainInfo) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// unknown is a domain of which nothing is known but that there is one.
func unknown(dom rpc.Domain, err error) hv.DomainInfo {
	return hv.DomainInfo{Name: dom.Name, UUID: formatUUID(dom.UUID), ID: max(0, int(dom.ID)), State: hv.StateOther, Err: err}
}

func (c *Conn) info(ctx context.Context, dom rpc.Domain) (hv.DomainInfo, error) {
	ctx, cancel := bounded.Within(ctx, min(infoTimeout, c.timeout))
	defer cancel()
	return query(ctx, c, fmt.Sprintf("ask for domain %q", dom.Name), func(l *rpc.Libvirt) (hv.DomainInfo, error) {
		_, maxMem, _, cpus, _, err := l.DomainGetInfo(dom)
		if err != nil {
			return hv.DomainInfo{}, err
		}
		var s status
		s.state, s.reason, err = l.DomainGetState(dom, 0)
		return hv.DomainInfo{
			Name: dom.Name, UUID: formatUUID(dom.UUID), ID: max(0, int(dom.ID)),
			State: s.hv(), Memory: maxMem << 10, CPUs: int(cpus),
		}, err
	})
}

// Lookup implements hv.Connection.
func (c *Conn) Lookup(ctx context.Context, ref string) (hv.VM, error) {
	d, err := c.LookupDomain(ctx, ref)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// LookupDomain is Lookup, with all that a libvirt domain can do.
func (c *Conn) LookupDomain(ctx context.Context, ref string) (*Domain, error) {
	dom, err := c.lookup(ctx, ref)
	if err != nil {
		return nil, err
	}
	host, err := query(ctx, c, "ask for the host's name", (*rpc.Libvirt).ConnectGetHostname)
	if err != nil {
		return nil, err
	}
	d := &Domain{conn: c, dom: dom, host: host}
	d.qemu = d.guest()
	return d, nil
}

func (c *Conn) lookup(ctx context.Context, ref string) (rpc.Domain, error) {
	what := fmt.Sprintf("look up domain %q", ref)
	dom, err := query(ctx, c, what, func(l *rpc.Libvirt) (rpc.Domain, error) { return l.DomainLookupByName(ref) })
	if err == nil || !errors.Is(err, hv.ErrNoDomain) {
		return dom, err
	}
	if id, ok := parseUUID(ref); ok {
		return query(ctx, c, what, func(l *rpc.Libvirt) (rpc.Domain, error) { return l.DomainLookupByUUID(id) })
	}
	if id, perr := strconv.ParseInt(ref, 10, 32); perr == nil && id > 0 {
		return query(ctx, c, what, func(l *rpc.Libvirt) (rpc.Domain, error) { return l.DomainLookupByID(int32(id)) })
	}
	return dom, err
}

// parseUUID reads the usual form, with or without dashes.
func parseUUID(s string) (rpc.UUID, bool) {
	var id rpc.UUID
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(id) {
		return id, false
	}
	copy(id[:], b)
	return id, true
}

func formatUUID(u rpc.UUID) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// Domain is one run of a domain: after it was stopped and started again, another
// Lookup is needed. It is safe for concurrent use.
type Domain struct {
	conn *Conn
	dom  rpc.Domain
	host string

	bounds *limits  // on pausing; nil for the defaults
	kept   *keeping // what stands behind a pause; nil if nothing does

	qemu *qemu.Guest
}

var _ hv.VM = (*Domain)(nil)

// Identity implements hv.Source.
func (d *Domain) Identity() hv.Identity {
	return hv.Identity{
		Name: d.dom.Name, UUID: formatUUID(d.dom.UUID), ID: max(0, int(d.dom.ID)),
		Host: d.host, URI: d.conn.URI(),
	}
}

// Close implements hv.Source. The connection stays open: it is its opener's.
func (d *Domain) Close() error { return nil }

// active fails with hv.ErrNotRunning unless this run of the domain has memory.
func (d *Domain) active(ctx context.Context) error {
	s, err := d.State(ctx)
	if err != nil {
		return err
	}
	if s.Off() {
		return &hv.StateError{ID: d.Identity(), State: s}
	}
	return nil
}

// Config returns what the domain's XML says that matters to a dump.
func (d *Domain) Config(ctx context.Context) (Config, error) {
	text, err := query(ctx, d.conn, fmt.Sprintf("get the XML of domain %q", d.dom.Name),
		func(l *rpc.Libvirt) (string, error) { return l.DomainGetXMLDesc(d.dom, 0) })
	if err != nil {
		return Config{}, err
	}
	c, err := parseConfig(text)
	if err != nil {
		return Config{}, fmt.Errorf("domain %q: %w", d.dom.Name, err)
	}
	return c, nil
}

// Warnings implements hv.VM.
func (d *Domain) Warnings(ctx context.Context) ([]string, error) {
	c, err := d.Config(ctx)
	return c.Warnings, err
}

// CheckJob implements hv.VM.
func (d *Domain) CheckJob(ctx context.Context) error {
	if err := d.active(ctx); err != nil {
		return err
	}
	job, err := d.jobType(ctx)
	if err != nil {
		return err
	}
	switch job {
	case rpc.DomainJobBounded, rpc.DomainJobUnbounded:
		return d.busy("a migration, save or dump of it goes on")
	}
	// Only now: a job that began meanwhile shows here.
	s, err := d.State(ctx)
	if err != nil {
		return err
	}
	return s.Check(d.Identity(), true)
}

func (d *Domain) jobType(ctx context.Context) (rpc.DomainJobType, error) {
	return query(ctx, d.conn, fmt.Sprintf("ask for the job of domain %q", d.dom.Name),
		func(l *rpc.Libvirt) (rpc.DomainJobType, error) {
			job, _, _, _, _, _, _, _, _, _, _, _, err := l.DomainGetJobInfo(d.dom)
			return rpc.DomainJobType(job), err
		})
}

func (d *Domain) busy(why string) error {
	return fmt.Errorf("domain %q: %s: %w; %s", d.dom.Name, why, hv.ErrBusy, d.howToSeeJob())
}

// howToSeeJob tells an operator what keeps the domain busy.
func (d *Domain) howToSeeJob() string {
	return fmt.Sprintf("`virsh -c %s domjobinfo %s` shows it", d.conn.URI(), d.dom.Name)
}

// resume has libvirt resume the guest, whoever paused it, unless it stopped by
// itself: then it fails with hv.ErrDisturbed.
func (d *Domain) resume(ctx context.Context) error {
	if err := d.stopped(ctx); err != nil {
		return err
	}
	_, err := query(ctx, d.conn, fmt.Sprintf("resume domain %q", d.dom.Name), func(l *rpc.Libvirt) (struct{}, error) {
		return struct{}{}, l.DomainResume(d.dom)
	})
	return err
}
