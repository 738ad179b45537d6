package libvirt

import (
	"context"
	"encoding/xml"
	"fmt"
	"time"

	rpc "github.com/digitalocean/go-libvirt"
)

// The marker's place among a domain's metadata, and how much of one is believed.
const (
	markerURI = "urn:snap:hold:1"
	markerKey = "snap"
	markerMax = 4096
)

// Marker is the note in a running domain's live metadata that snap holds it. It
// is there from before the suspend until after the resume, so that a guest
// without it was not paused by snap. `virsh metadata DOMAIN urn:snap:hold:1`
// shows it.
type Marker struct {
	XMLName xml.Name  `xml:"hold"`
	Run     string    `xml:"run,attr"`   // names the dump
	Host    string    `xml:"host,attr"`  // that snap runs on
	Boot    string    `xml:"boot,attr"`  // boot id of that host
	PID     int       `xml:"pid,attr"`   // of snap there
	Start   uint64    `xml:"start,attr"` // of that process, in clock ticks since boot
	Since   time.Time `xml:"since,attr"`
	Was     string    `xml:"was,attr"` // the guest's state before: always "running"
	Why     Reason    `xml:"why,attr"`
}

// SetMarker puts m on the running domain. It replaces one that is there.
func (d *Domain) SetMarker(ctx context.Context, m Marker) error {
	m.Was = "running"
	text, err := xml.Marshal(m)
	if err != nil {
		return err
	}
	return d.setMarker(ctx, "mark", rpc.OptString{string(text)})
}

// ClearMarker removes the marker; there need not be one.
func (d *Domain) ClearMarker(ctx context.Context) error {
	return d.setMarker(ctx, "remove the mark from", nil)
}

func (d *Domain) setMarker(ctx context.Context, what string, text rpc.OptString) error {
	_, err := query(ctx, d.conn, fmt.Sprintf("%s domain %q", what, d.dom.Name), func(l *rpc.Libvirt) (struct{}, error) {
		err := l.DomainSetMetadata(d.dom, int32(rpc.DomainMetadataElement), text,
			rpc.OptString{markerKey}, rpc.OptString{markerURI}, rpc.DomainAffectLive)
		if len(text) == 0 && hasCode(err, rpc.ErrNoDomainMetadata) {
			err = nil
		}
		return struct{}{}, err
	})
	return err
}

// Marker returns the domain's marker, nil if it has none.
func (d *Domain) Marker(ctx context.Context) (*Marker, error) {
	return query(ctx, d.conn, fmt.Sprintf("look for a mark on domain %q", d.dom.Name), d.readMarker)
}

func (d *Domain) readMarker(l *rpc.Libvirt) (*Marker, error) {
	text, err := l.DomainGetMetadata(d.dom, int32(rpc.DomainMetadataElement), rpc.OptString{markerURI}, rpc.DomainAffectLive)
	if hasCode(err, rpc.ErrNoDomainMetadata) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(text) > markerMax {
		return nil, fmt.Errorf("mark of domain %q has %d bytes; want at most %d", d.dom.Name, len(text), markerMax)
	}
	var m Marker
	if err := xml.Unmarshal([]byte(text), &m); err != nil {
		return nil, fmt.Errorf("mark of domain %q: %w", d.dom.Name, err)
	}
	return &m, nil
}
