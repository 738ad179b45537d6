package libvirt

import (
	"context"
	"encoding/xml"
	"fmt"
	"time"

	rpc "github.com/digitalocean/go-libvirt"

	"snap/hv"
)

// The marker's place among a domain's metadata, and how much of one is believed.
const (
	markerURI = "urn:snap:hold:1"
	markerKey = "snap"
	markerMax = 4096
)

// markerXML is a hv.Marker among a domain's live metadata. `virsh metadata DOMAIN
// urn:snap:hold:1` shows it.
type markerXML struct {
	XMLName xml.Name  `xml:"hold"`
	Run     string    `xml:"run,attr"`
	Host    string    `xml:"host,attr"`
	Boot    string    `xml:"boot,attr"`
	NS      uint64    `xml:"pidns,attr"`
	PID     int       `xml:"pid,attr"`
	Start   uint64    `xml:"start,attr"`
	Since   time.Time `xml:"since,attr"`
	Was     hv.State  `xml:"was,attr"`
	Why     hv.Reason `xml:"why,attr"`
}

// setMarker puts m on the running domain. It replaces one that is there.
func (d *Domain) setMarker(ctx context.Context, m hv.Marker) error {
	text, err := xml.Marshal(markerXML{
		Run: m.Run, Host: m.Host, Boot: m.Boot, NS: m.Namespace, PID: m.PID, Start: m.Start, Since: m.Since, Was: m.Was, Why: m.Why,
	})
	if err != nil {
		return err
	}
	return d.changeMarker(ctx, "mark", rpc.OptString{string(text)})
}

// ClearMarker implements hv.Guardable.
func (d *Domain) ClearMarker(ctx context.Context) error {
	return d.changeMarker(ctx, "remove the mark from", nil)
}

func (d *Domain) changeMarker(ctx context.Context, what string, text rpc.OptString) error {
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

// Marker implements hv.Guardable.
func (d *Domain) Marker(ctx context.Context) (*hv.Marker, error) {
	return query(ctx, d.conn, fmt.Sprintf("look for a mark on domain %q", d.dom.Name), d.readMarker)
}

func (d *Domain) readMarker(l *rpc.Libvirt) (*hv.Marker, error) {
	text, err := l.DomainGetMetadata(d.dom, int32(rpc.DomainMetadataElement), rpc.OptString{markerURI}, rpc.DomainAffectLive)
	if hasCode(err, rpc.ErrNoDomainMetadata) {
		return nil, nil
	}
	if hasCode(err, rpc.ErrOperationInvalid) { // VIR_DOMAIN_AFFECT_LIVE is for domains that are active
		return nil, fmt.Errorf("%w: %s", hv.ErrNotRunning, err.Error())
	}
	if err != nil {
		return nil, err
	}
	if len(text) > markerMax {
		return nil, fmt.Errorf("%w: it has %d bytes; want at most %d", hv.ErrFormat, len(text), markerMax)
	}
	var m markerXML
	if err := xml.Unmarshal([]byte(text), &m); err != nil {
		return nil, fmt.Errorf("%w: %w", hv.ErrFormat, err)
	}
	return &hv.Marker{
		Run: m.Run, Host: m.Host, Boot: m.Boot, Namespace: m.NS, PID: m.PID, Start: m.Start, Since: m.Since, Was: m.Was, Why: m.Why,
	}, nil
}
