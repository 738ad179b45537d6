package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// s3Scheme begins destinations that are objects of a bucket.
const s3Scheme = "s3://"

// maxKey is the length of a key in bytes (Amazon S3 user guide, "Naming Amazon S3
// objects").
const maxKey = 1024

// S3 are options of places and files at s3://BUCKET/KEY. What is empty comes from
// environment variables that AWS's own tools know: see docs/s3.md.
type S3 struct {
	// Endpoint is the URL of the server, without a path. "" is that of
	// AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, or else AWS's.
	Endpoint string

	// Region is where the bucket is: AWS_REGION, AWS_DEFAULT_REGION.
	Region string

	// Credentials is a file of credentials, which comes before all others.
	Credentials string

	// Retain is how long the server keeps an object from being removed, from when its
	// upload begins; 0 asks for nothing. Governance lets those remove it earlier who have
	// a right of its own (s3:BypassGovernanceRetention); else nobody can.
	Retain     time.Duration
	Governance bool

	// Memory bounds the parts of one file that are held until the server has them, in
	// bytes; 0 is DefaultS3Memory. One part is held whatever it says.
	Memory int64
}

// DefaultS3Memory is what parts of an upload take unless something else is said: four
// of the smallest.
const DefaultS3Memory = 4 * minPart

// IsS3 reports whether a destination, or a file's name, is one of a bucket.
func IsS3(dest string) bool {
	return len(dest) >= len(s3Scheme) && strings.EqualFold(dest[:len(s3Scheme)], s3Scheme)
}

// s3Kind are buckets of S3 and of whatever speaks its protocol.
func s3Kind() kind {
	return kind{
		forms: []string{"s3://BUCKET/KEY", "s3://BUCKET/PREFIX/"},
		takes: IsS3,
		open: func(dest string, o Options) (Place, string, error) {
			b, key, err := openBucket("open", dest, o)
			if err != nil {
				return nil, "", err
			}
			prefix, name := path.Split(key)
			b.prefix = prefix
			return &s3Place{bucket: *b, options: o}, name, nil
		},
		archive: openS3Archive,
	}
}

// bucket is a bucket, and a prefix in it.
type bucket struct {
	client   *minio.Core
	endpoint string // its URL
	name     string
	prefix   string // of names, to make them keys: empty or with a "/" at its end
}

// url is how people and scripts call an object.
func (b *bucket) url(key string) string { return s3Scheme + b.name + "/" + key }

// openBucket connects to the bucket of a destination, and returns the key in it.
// Nothing is asked of the server yet.
func openBucket(doing, dest string, o Options) (*bucket, string, error) {
	name, key, _ := strings.Cut(dest[len(s3Scheme):], "/")
	if err := checkBucket(name); err != nil {
		return nil, "", &Error{doing, dest, err}
	}
	if err := checkKey(key); err != nil {
		return nil, "", &Error{doing, dest, err}
	}
	client, endpoint, err := s3Client(o.S3)
	if err != nil {
		return nil, "", &Error{doing, dest, err}
	}
	return &bucket{client: client, endpoint: endpoint, name: name}, key, nil
}

func checkBucket(name string) error {
	if err := s3utils.CheckValidBucketNameStrict(name); err != nil {
		return fmt.Errorf("%w: %q can't be a bucket: %w", ErrName, name, err)
	}
	return nil
}

// checkKey fails unless key is one that every server and tool takes as it is: no part of
// it may mean anything to whoever makes a path of it.
func checkKey(key string) error {
	if len(key) > maxKey || !utf8.ValidString(key) || strings.ContainsFunc(key, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%w: a key is up to %d bytes of printable text", ErrName, maxKey)
	}
	parts := strings.Split(key, "/")
	for i, part := range parts {
		if part == "." || part == ".." || part == "" && i < len(parts)-1 {
			return fmt.Errorf("%w: a key has no empty parts in it, and none of dots alone", ErrName)
		}
	}
	return nil
}

// s3Place is a bucket as a place for files.
//
// An object is there when its upload is completed, whole or not at all, so that it
// needs no other name until then; before that nobody can read it, whoever writes it
// included.
type s3Place struct {
	bucket
	options Options
}

// Path implements Place.
func (p *s3Place) Path(name string) string { return p.url(p.prefix + name) }

// key returns the key of a name.
func (p *s3Place) key(doing, name string) (string, error) {
	key := p.prefix + name
	err := checkKey(key)
	if name == "" || strings.Contains(name, "/") {
		err = ErrName
	}
	if err != nil {
		return "", &Error{doing, p.url(key), err}
	}
	return key, nil
}

// Check implements Place. Who may only write can't ask whether something is there: that
// is told by Options.Note, and the server is asked to replace nothing.
func (p *s3Place) Check(ctx context.Context, name string) error {
	key, err := p.key("create", name)
	if err != nil {
		return err
	}
	err = p.look(ctx, key)
	switch {
	case err == nil && !p.options.Force:
		err = fs.ErrExist
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case errors.Is(err, fs.ErrPermission):
		p.note("it can't be asked whether %s is there: these credentials may not read", p.url(key))
		err = nil
	}
	if err == nil && p.options.S3.Retain > 0 {
		err = p.keeps(ctx)
	}
	if err != nil {
		return &Error{"create", p.url(key), err}
	}
	return nil
}

// keeps fails if the bucket can't keep objects from being removed: not every server says
// so when one is put there.
func (p *s3Place) keeps(ctx context.Context) error {
	_, _, _, _, err := p.client.GetObjectLockConfig(ctx, p.name)
	if err = s3Failure(err); errors.Is(err, fs.ErrPermission) {
		p.note("it can't be asked whether bucket %s keeps what is put there: these credentials may not read that (s3:GetBucketObjectLockConfiguration)", p.name)
		return nil
	}
	return err
}

// note tells what couldn't be asked.
func (p *s3Place) note(format string, args ...any) {
	if p.options.Note != nil {
		p.options.Note(fmt.Sprintf(format, args...))
	}
}

// look fails unless an object is there. A byte of it is asked for, since the answer to a
// request for its size alone says nothing of why it is refused.
func (b *bucket) look(ctx context.Context, key string) error {
	var o minio.GetObjectOptions
	if err := o.SetRange(0, 0); err != nil {
		return err
	}
	body, _, _, err := b.client.GetObject(ctx, b.name, key, o)
	if err == nil {
		return body.Close()
	}
	if minio.ToErrorResponse(err).Code == minio.InvalidRange { // of nothing
		return nil
	}
	return s3Reason(err)
}

// Space implements Place: a bucket has no end.
func (p *s3Place) Space(context.Context) (Space, error) { return Space{}, nil }

// ReadsBack implements Place.
func (p *s3Place) ReadsBack() bool { return false }

// Create implements Place. Nothing is sent before the first part is full.
func (p *s3Place) Create(ctx context.Context, name string) (File, error) {
	if err := p.Check(ctx, name); err != nil {
		return nil, err
	}
	return newS3File(ctx, p, p.prefix+name), nil
}
