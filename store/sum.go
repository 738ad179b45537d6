package store

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
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
