package libvirt

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	rpc "github.com/digitalocean/go-libvirt"
)

// Flags of virDomainQemuMonitorCommand (include/libvirt/libvirt-qemu.h).
const (
	monitorQMP = 0
	monitorHMP = 1
)

// maxReply bounds a monitor's reply; libvirt's own limit is as high
// (REMOTE_STRING_MAX in src/remote/remote_protocol.x).
const maxReply = 4 << 20

// qmpError is a command that QEMU refused.
type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *qmpError) Error() string { return fmt.Sprintf("QEMU answered %s: %s", e.Class, e.Desc) }

// qmp runs a QMP command without arguments and decodes what it returns.
func qmp[T any](ctx context.Context, d *Domain, command string) (T, error) {
	return qmpWith[T](ctx, d, command, nil)
}

// qmpWith runs a QMP command with arguments, a map or a struct, and decodes what
// it returns. QEMU's own refusal is a *qmpError.
func qmpWith[T any](ctx context.Context, d *Domain, command string, args any) (T, error) {
	var v T
	cmd, err := encodeQMP(command, args)
	if err != nil {
		return v, err
	}
	text, err := d.monitor(ctx, command, cmd, monitorQMP)
	if err != nil {
		return v, err
	}
	if v, err = decodeQMP[T](text); err != nil {
		return v, fmt.Errorf("QMP command %s on domain %q: %w", command, d.dom.Name, err)
	}
	return v, nil
}

// nothing is what a QMP command returns that has nothing to say.
type nothing struct{}

func encodeQMP(command string, args any) (string, error) {
	cmd, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, args})
	if err != nil {
		return "", fmt.Errorf("encode QMP command %s: %w", command, err)
	}
	return string(cmd), nil
}

// decodeQMP splits a QMP reply. QEMU's errors are inside of it: for libvirt the
// call went well.
func decodeQMP[T any](text string) (T, error) {
	var reply struct {
		Return *T        `json:"return"`
		Error  *qmpError `json:"error"`
	}
	var none T
	if err := json.Unmarshal([]byte(text), &reply); err != nil {
		return none, fmt.Errorf("decode reply: %w", err)
	}
	if reply.Error != nil {
		return none, reply.Error
	}
	if reply.Return == nil {
		return none, fmt.Errorf("reply has neither return nor error")
	}
	return *reply.Return, nil
}

// hmp runs a command of QEMU's human monitor and returns its text with plain
// line ends. The monitor reports errors in that text only.
func (d *Domain) hmp(ctx context.Context, command string) (string, error) {
	text, err := d.monitor(ctx, command, command, monitorHMP)
	return strings.ReplaceAll(text, "\r\n", "\n"), err
}

func (d *Domain) monitor(ctx context.Context, name, command string, flags uint32) (string, error) {
	text, err := query(ctx, d.conn, fmt.Sprintf("run monitor command %q on domain %q", name, d.dom.Name),
		func(l *rpc.Libvirt) (string, error) { return l.QEMUDomainMonitorCommand(d.dom, command, flags) })
	if err != nil {
		return "", err
	}
	if len(text) > maxReply {
		return "", fmt.Errorf("monitor command %q on domain %q: reply of %d bytes exceeds %d", name, d.dom.Name, len(text), maxReply)
	}
	return text, nil
}
