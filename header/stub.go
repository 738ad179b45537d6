package header

import (
	"errors"

	"snap/guest/phys"
)

var errNotYet = errors.New("not written yet")

const (
	MaxRuns       = 42
	MaxRuns32     = 86
	PortableRuns  = 32
	MaxProcessors = 2048
	MaxComment    = 127
)

type FieldValue struct {
	Name         string
	Offset, Size int
	Value        string
	Set          bool
}

// Decode reads the header that b begins with.
func Decode(b []byte) (*Header, error) { return nil, errNotYet }

// HeaderSize tells a header's size from its first 8 bytes.
func HeaderSize(b []byte) (int, error) { return 0, errNotYet }

func (h *Header) Encode() ([]byte, error)        { return nil, errNotYet }
func (h *Header) Fields() []FieldValue           { return nil }
func (h *Header) IsSet(name string) bool         { return false }
func (h *Header) Describes(runs []phys.Run) bool { return false }
func InitializeCrashDumpHeader(dumpType, flags uint32, buffer []byte, facts *Facts) (needed int, err error) {
	return 0, errNotYet
}
func ContextAMD64(r *phys.Registers) []byte        { return nil }
func ContextI386(r *phys.Registers) []byte         { return nil }
func DecodeContextAMD64(b []byte) (Context, error) { return Context{}, errNotYet }
func DecodeContextI386(b []byte) (Context, error)  { return Context{}, errNotYet }
