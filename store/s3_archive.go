package store

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/minio/minio-go/v7"
)

// openS3Archive returns what lies behind a prefix. Nothing is asked of the server yet.
func openS3Archive(_ context.Context, dest string, o Options) (Archive, error) {
	b, key, err := openBucket("look into", dest, o)
	if err != nil {
		return nil, err
	}
	if b.prefix = key; key != "" && !strings.HasSuffix(key, "/") {
		b.prefix += "/"
	}
	return &s3Archive{s3Place{bucket: *b, options: o}}, nil
}

// s3Archive is a prefix of a bucket as an Archive.
type s3Archive struct{ s3Place }

// List implements Archive. A page has 1000 objects.
func (s *s3Archive) List(ctx context.Context, each func(Entry) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // which ends the listing that isn't read to its end
	for o := range s.client.ListObjectsIter(ctx, s.name, minio.ListObjectsOptions{Prefix: s.prefix}) {
		if o.Err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return &Error{"look into", s.url(s.prefix), s3Reason(o.Err)}
		}
		name, ok := strings.CutPrefix(o.Key, s.prefix)
		if !ok || name == "" || strings.Contains(name, "/") || checkKey(o.Key) != nil {
			continue // what lies below, or can't be asked for by that name
		}
		if err := each(Entry{Name: name, Size: o.Size, Modified: o.LastModified}); err != nil {
			return err
		}
	}
	return nil
}

// Open implements Archive.
func (s *s3Archive) Open(ctx context.Context, name string) (Reader, error) {
	key, err := s.key("open", name)
	if err != nil {
		return nil, err
	}
	return s.open(ctx, key)
}

// Remove implements Archive. A server removes what isn't there without a word, and keeps
// what is under retention though it says that it is gone, where the bucket has versions:
// that version is asked for.
func (s *s3Archive) Remove(ctx context.Context, name string) error {
	key, err := s.key("remove", name)
	if err != nil {
		return err
	}
	info, err := s.client.StatObject(ctx, s.name, key, minio.StatObjectOptions{})
	if err == nil {
		err = s.client.RemoveObject(ctx, s.name, key, minio.RemoveObjectOptions{VersionID: info.VersionID})
		if isKept(err, &info) {
			return &Error{"remove", s.url(key), ErrKept}
		}
	}
	if err != nil {
		return &Error{"remove", s.url(key), s3Reason(err)}
	}
	return nil
}

// isKept reports whether an object wasn't removed because it is under retention.
func isKept(err error, info *minio.ObjectInfo) bool {
	code := minio.ToErrorResponse(err).Code
	if code == "InvalidRequest" || code == "ObjectLocked" {
		return true
	}
	locked := info.Metadata.Get("X-Amz-Object-Lock-Mode") != "" || info.Metadata.Get("X-Amz-Object-Lock-Legal-Hold") == "ON"
	return err != nil && locked && errors.Is(s3Reason(err), fs.ErrPermission)
}
