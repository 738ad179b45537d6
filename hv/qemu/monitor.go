package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"snap/hv"
)

// Monitor carries commands to the monitor of one QEMU, and its answers back. An
// error is one of the way there and says what was asked of which guest: what QEMU
// itself refuses is in its answer. It is safe for concurrent use, and a call ends
// with its context.
type Monitor interface {
	// QMP runs a command of the machine protocol and returns QEMU's reply, a JSON
	// object with "return" or "error".
	QMP(ctx context.Context, c Command) (reply string, err error)

	// HMP runs a command of the human monitor and returns its text, which holds
	// errors too.
	HMP(ctx context.Context, command string) (text string, err error)

	// Shell returns the command line by which an operator runs a QMP command, a
	// JSON object without single quotes, on this guest's monitor, for messages.
	Shell(command string) string
}

// Command is a command of QMP.
type Command struct {
	Name string // such as "query-kvm"
	JSON string // all of it, with Name in it

	// File goes along for QEMU to take (getfd); nil for none. It stays the
	// caller's. The error is hv.ErrUnsupported where the monitor carries no files.
	File *os.File
}

// maxReply bounds a monitor's reply; libvirt's own limit is as high
// (REMOTE_STRING_MAX in src/remote/remote_protocol.x).
const maxReply = 4 << 20

// RefusedError is a command that QEMU refused (qapi/error.json).
type RefusedError struct {
	Class string `json:"class"` // GenericError in most cases
	Desc  string `json:"desc"`
}

func (e *RefusedError) Error() string { return fmt.Sprintf("QEMU answered %s: %s", e.Class, e.Desc) }

// Is reports whether target is hv.ErrRefused.
func (e *RefusedError) Is(target error) bool { return target == hv.ErrRefused }

// refused reports whether QEMU refused a command with a text that contains word.
func refused(err error, word string) bool {
	q, ok := errors.AsType[*RefusedError](err)
	return ok && strings.Contains(q.Desc, word)
}

// qmp runs a QMP command without arguments and decodes what it returns.
func qmp[T any](ctx context.Context, g *Guest, command string) (T, error) {
	return qmpWith[T](ctx, g, command, nil, nil)
}

// qmpWith runs a QMP command with arguments, a map or a struct, and a file, nil for
// none, and decodes what it returns. QEMU's own refusal is a *RefusedError.
func qmpWith[T any](ctx context.Context, g *Guest, command string, args any, file *os.File) (T, error) {
	var none T
	c, err := encodeQMP(command, args)
	if err != nil {
		return none, err
	}
	c.File = file
	text, err := g.m.QMP(ctx, c)
	if err == nil {
		err = g.bounded(command, text)
	}
	if err != nil {
		return none, err
	}
	v, err := decodeQMP[T](text)
	if err != nil {
		return none, fmt.Errorf("QMP command %s on domain %q: %w", command, g.o.Name, err)
	}
	return v, nil
}

// nothing is what a QMP command returns that has nothing to say.
type nothing struct{}

func encodeQMP(command string, args any) (Command, error) {
	text, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, args})
	if err != nil {
		return Command{}, fmt.Errorf("encode QMP command %s: %w", command, err)
	}
	return Command{Name: command, JSON: string(text)}, nil
}

// decodeQMP splits a QMP reply. QEMU's errors are inside of it: for who carries it
// the call went well.
func decodeQMP[T any](text string) (T, error) {
	var reply struct {
		Return *T            `json:"return"`
		Error  *RefusedError `json:"error"`
	}
	var none T
	if err := json.Unmarshal([]byte(text), &reply); err != nil {
		return none, fmt.Errorf("%w: decode reply: %w", hv.ErrNotUnderstood, err)
	}
	if reply.Error != nil {
		return none, reply.Error
	}
	if reply.Return == nil {
		return none, fmt.Errorf("%w: reply has neither return nor error", hv.ErrNotUnderstood)
	}
	return *reply.Return, nil
}

// hmp runs a command of QEMU's human monitor and returns its text with plain
// line ends.
func (g *Guest) hmp(ctx context.Context, command string) (string, error) {
	text, err := g.m.HMP(ctx, command)
	if err == nil {
		err = g.bounded(command, text)
	}
	return strings.ReplaceAll(text, "\r\n", "\n"), err
}

// bounded fails if a reply is longer than any that is believed.
func (g *Guest) bounded(command, text string) error {
	if len(text) > maxReply {
		return fmt.Errorf("monitor command %q on domain %q: %w: reply of %d bytes exceeds %d", command, g.o.Name, hv.ErrNotUnderstood, len(text), maxReply)
	}
	return nil
}
