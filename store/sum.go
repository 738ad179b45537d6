package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"runtime/trace"
)

// zeros are what a hole reads as.
var zeros [64 << 10]byte

// sum hashes a file while it is written. The zero value hashes nothing.
type sum struct{ h hash.Hash }

func newSum(o Options) sum {
	if o.NoSum {
		return sum{}
	}
	return sum{sha256.New()}
}

func (s sum) add(p []byte) {
	if s.h != nil {
		s.h.Write(p)
	}
}

// besides is how many bytes are worth a goroutine to hash them.
const besides = 256 << 10

// write hashes p while write writes it, and returns what that does. Of a write that
// fails nothing is hashed that a reader of the sum could want.
func (s sum) write(p []byte, write func([]byte) (int, error)) (int, error) {
	if s.h == nil || len(p) < besides {
		n, err := write(p)
		s.add(p[:n])
		return n, err
	}
	hashed := make(chan struct{})
	go func() {
		defer close(hashed)
		defer trace.StartRegion(context.Background(), "hash").End()
		s.add(p)
	}()
	n, err := write(p)
	<-hashed
	return n, err
}

func (s sum) addZeros(n int64) {
	for s.h != nil && n > 0 {
		part := min(n, int64(len(zeros)))
		s.h.Write(zeros[:part])
		n -= part
	}
}

// Sum implements File.
func (s sum) Sum() string {
	if s.h == nil {
		return ""
	}
	return hex.EncodeToString(s.h.Sum(nil))
}
