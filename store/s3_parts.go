package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/minio/minio-go/v7"
)

// Sizes of parts.
const (
	// minPart is the size of a part of a file of which nothing else is known.
	minPart = 16 << 20
	// maxParts is how many parts an object may have (Amazon S3 user guide, "Multipart
	// upload limits").
	maxParts = 10_000
	// plannedParts leaves some of them to a file that becomes longer than expected.
	plannedParts = 9_000
	// maxPart is the largest part that is chosen: with it a file may have more bytes
	// than an object (48.8 TiB, since December 2025).
	maxPart = 5 << 30
	// maxSending is how many parts of a file are sent at a time at most.
	maxSending = 4
)

// ErrTooLong says that a file has more bytes than parts can have.
var ErrTooLong = errors.New("it is longer than it was expected to become, and has too many parts")

// partSize is that of the parts of a file that has size bytes at most.
func partSize(size int64) int64 {
	const unit = 1 << 20
	n := (max(size, 0)/plannedParts + unit) / unit * unit
	return min(max(n, minPart), maxPart)
}

// s3Parts are the parts of a file. All of them have the same size but the last, as some
// servers want it.
type s3Parts struct {
	f      *s3File
	ctx    context.Context // ends with the file, or the first failure
	cancel context.CancelCauseFunc
	size   int64       // of a part
	free   chan []byte // memory for parts that nobody has; nil what nobody got yet
	upload string      // the server's name of the upload, "" before it is begun
	taken  int64       // bytes that were written
	count  int         // parts that were begun to be sent

	filling []byte // the part that is being gathered

	sending sync.WaitGroup
	mu      sync.Mutex
	sent    []minio.CompletePart // by number, from 1
	hashes  []byte               // of their contents, in order
	cut     bool                 // a part was given up, which may arrive yet
	err     error                // the first failure
}

func newS3Parts(ctx context.Context, f *s3File) *s3Parts {
	s := &s3Parts{f: f}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.expect(0)
	return s
}

// expect chooses the size of the parts, and how many there is memory for. It does nothing
// once something was written.
func (s *s3Parts) expect(size int64) {
	if s.taken > 0 {
		return
	}
	s.size = partSize(size)
	memory := s.f.place.options.S3.Memory
	if memory <= 0 {
		memory = DefaultS3Memory
	}
	n := min(max(memory/s.size, 1), maxSending)
	s.free = make(chan []byte, n)
	for range n {
		s.free <- nil
	}
}

// begun reports whether parts were sent.
func (s *s3Parts) begun() bool { return s.count > 0 }

// failure returns why nothing more can be sent.
func (s *s3Parts) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return s.err
}

func (s *s3Parts) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
	s.cancel(err)
}

// write gathers p, and has parts sent that are full.
func (s *s3Parts) write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if err := s.failure(); err != nil {
			return n, err
		}
		if s.filling == nil {
			if err := s.get(); err != nil {
				return n, err
			}
		}
		part := min(int64(len(p)), s.size-int64(len(s.filling)))
		s.filling = append(s.filling, p[:part]...)
		n, p, s.taken = n+int(part), p[part:], s.taken+part
		if int64(len(s.filling)) == s.size {
			if err := s.send(); err != nil {
				return n, err
			}
		}
	}
	return n, s.failure()
}

// get gets memory for a part, and waits for it if all is being sent.
func (s *s3Parts) get() error {
	select {
	case s.filling = <-s.free:
	case <-s.ctx.Done():
		return s.failure()
	}
	if s.filling == nil {
		s.filling = make([]byte, 0, s.size)
	}
	return nil
}

// send has the part sent that is gathered.
func (s *s3Parts) send() error {
	if s.upload == "" {
		if err := s.begin(); err != nil {
			s.fail(err)
			return err
		}
	}
	if s.count == maxParts {
		s.fail(ErrTooLong)
		return ErrTooLong
	}
	s.count++
	number, content := s.count, s.filling
	s.filling = nil
	s.mu.Lock()
	s.sent = append(s.sent, minio.CompletePart{PartNumber: number})
	s.hashes = append(s.hashes, make([]byte, sha256.Size)...)
	s.mu.Unlock()
	s.sending.Go(func() {
		if err := s.put(number, content); err != nil {
			s.mu.Lock()
			s.cut = true
			s.mu.Unlock()
			s.fail(err)
		}
		s.free <- content[:0]
	})
	return nil
}

// begin begins the upload. Nothing is sent before a Guardian knows of it.
func (s *s3Parts) begin() error {
	f := s.f
	o := f.options()
	o.UserMetadata[algorithmHeader] = "SHA256"
	upload, err := f.place.client.NewMultipartUpload(s.ctx, f.place.name, f.key, o)
	if err != nil {
		return f.reason(err)
	}
	s.upload = upload
	if k := f.place.options.Guardian; k != nil {
		u := unfinished{endpoint: f.place.endpoint, bucket: f.place.name, key: f.key, upload: upload, token: k.Token()}
		return k.Expect(u.String())
	}
	return nil
}

// put sends one part.
func (s *s3Parts) put(number int, content []byte) error {
	f := s.f
	hash := sha256.Sum256(content)
	want := base64.StdEncoding.EncodeToString(hash[:])
	got, err := f.place.client.PutObjectPart(s.ctx, f.place.name, f.key, s.upload, number, bytes.NewReader(content), int64(len(content)),
		minio.PutObjectPartOptions{
			Sha256Hex: hex.EncodeToString(hash[:]), DisableContentSha256: true,
			CustomHeader: http.Header{checksumHeader: {want}},
		})
	if err != nil {
		return fmt.Errorf("part %d: %w", number, s3Reason(err))
	}
	if err := sameChecksum(got.ChecksumSHA256, want); err != nil {
		return fmt.Errorf("part %d: %w", number, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent[number-1] = minio.CompletePart{PartNumber: number, ETag: got.ETag, ChecksumSHA256: got.ChecksumSHA256}
	copy(s.hashes[(number-1)*sha256.Size:], hash[:])
	return nil
}

// finish sends what is left, waits for all parts, and returns them with the checksum that
// the object has: that of the parts' hashes, and their number.
func (s *s3Parts) finish() ([]minio.CompletePart, string, error) {
	if len(s.filling) > 0 {
		if err := s.send(); err != nil {
			return nil, "", err
		}
	}
	s.sending.Wait()
	if err := s.failure(); err != nil {
		return nil, "", err
	}
	all := sha256.Sum256(s.hashes)
	return s.sent, fmt.Sprintf("%s-%d", base64.StdEncoding.EncodeToString(all[:]), len(s.sent)), nil
}

// end ends all sending, and reports whether a part that was given up may arrive yet.
func (s *s3Parts) end() bool {
	s.cancel(context.Canceled)
	s.sending.Wait()
	s.filling = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cut
}
