package libvirt

import (
	"context"

	"snap/guest/phys"
	"snap/hv"
)

// Conn is a connection to one libvirt daemon. It is safe for concurrent use.
type Conn struct{ uri string }

// Connect opens uri: qemu:///system, qemu:///session, qemu+unix:///…?socket=,
// qemu+ssh://, qemu+tls:// or qemu+tcp://.
func Connect(ctx context.Context, uri string) (*Conn, error) { return nil, hv.ErrUnsupported }

// URI returns the URI that Connect was given.
func (c *Conn) URI() string { return c.uri }

// Close ends the connection.
func (c *Conn) Close() error { return nil }

// DomainInfo is a line of a list of domains.
type DomainInfo struct {
	Name   string
	UUID   string
	ID     int // 0 if it isn't running
	State  hv.State
	Memory uint64 // bytes, as configured at most
	CPUs   int
}

// Domains lists all domains, running or not, by name.
func (c *Conn) Domains(ctx context.Context) ([]DomainInfo, error) { return nil, hv.ErrUnsupported }

// Lookup finds a domain by its name, UUID or id, in that order.
func (c *Conn) Lookup(ctx context.Context, ref string) (*Domain, error) {
	return nil, hv.ErrUnsupported
}

// Domain is one run of a domain. It is safe for concurrent use.
type Domain struct{ hv.VM }

// Config returns what the domain's XML says that matters to a dump.
func (d *Domain) Config(ctx context.Context) (Config, error) { return Config{}, hv.ErrUnsupported }

// RAM returns the domain's RAM map.
func (d *Domain) RAM(ctx context.Context) (phys.Runs, error) { return nil, hv.ErrUnsupported }

// CheckJob fails with hv.ErrBusy while the domain is being migrated, saved or dumped.
func (d *Domain) CheckJob(ctx context.Context) error { return hv.ErrUnsupported }

// Config is what matters to a dump of a domain's configuration.
type Config struct {
	Memory         uint64   // bytes
	CPUs           int      // online at start
	Machine        string   // e.g. pc-q35-7.2
	Backing        string   // anonymous, memfd, file or hugepages
	Shared         bool     // other processes may map the memory
	LaunchSecurity string   // sev, sev-snp, tdx, …; empty if none
	Firmware       string   // path of the OS loader, empty for the default BIOS
	VMCoreInfo     bool     // the vmcoreinfo device is there
	Warnings       []string // what makes a dump less than consistent or complete
}
