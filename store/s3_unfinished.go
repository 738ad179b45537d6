package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// unfinished is an upload that a Guardian was told of. Its text is what stands in state
// files: it holds nothing secret, and is checked like anything that others may have
// written.
type unfinished struct {
	endpoint, bucket, key string
	upload                string // the server's name of it
	token                 string // the Guardian's
}

// uploadForm is what servers' names of uploads look like.
var uploadForm = regexp.MustCompile(`^[A-Za-z0-9._~+/=-]{1,1000}$`)

// String returns s3://BUCKET/KEY?endpoint=…&upload=…&run=TOKEN.
func (u unfinished) String() string {
	return s3Scheme + u.bucket + "/" + u.key +
		"?endpoint=" + url.QueryEscape(u.endpoint) + "&upload=" + url.QueryEscape(u.upload) + "&run=" + u.token
}

// parseUnfinished is String's inverse.
func parseUnfinished(text string) (u unfinished, err error) {
	wrong := fmt.Errorf("%w: it is no upload of snap's", ErrName)
	at := strings.LastIndexByte(text, '?') // a key may have one, the rest has none
	if !IsS3(text) || at < 0 {
		return u, wrong
	}
	q, err := url.ParseQuery(text[at+1:])
	if err != nil {
		return u, wrong
	}
	u.bucket, u.key, _ = strings.Cut(text[len(s3Scheme):at], "/")
	u.endpoint, u.upload, u.token = q.Get("endpoint"), q.Get("upload"), q.Get("run")
	if checkBucket(u.bucket) != nil || checkKey(u.key) != nil || u.key == "" || !uploadForm.MatchString(u.upload) || u.token == "" || u.String() != text {
		return u, wrong
	}
	return u, nil
}

// RemoveUnfinished removes what a Guardian was told of and is no file of this host: it
// aborts an upload. The error is fs.ErrNotExist if there is none. The server is that of o
// and of the environment: what the text says must be the same one, so that no credentials
// go where somebody else wants them. An upload whose token isn't the one given is not
// touched.
func RemoveUnfinished(ctx context.Context, text, token string, o Options) error {
	u, err := parseUnfinished(text)
	if err != nil {
		return fmt.Errorf("abort the upload %.200q: %w", text, err)
	}
	path := s3Scheme + u.bucket + "/" + u.key
	if u.token != token {
		return &Error{"abort the upload of", path, fmt.Errorf("%w: it is of another dump", ErrName)}
	}
	b, _, err := openBucket("abort the upload of", path, o)
	if err != nil {
		return err
	}
	if b.endpoint != u.endpoint {
		return &Error{"abort the upload of", path, fmt.Errorf("%w: it is at %q, and S3 is %s now", ErrEndpoint, u.endpoint, b.endpoint)}
	}
	if err := abortSettled(ctx, b, u.key, u.upload); err != nil {
		return &Error{"abort the upload of", path, err}
	}
	return nil
}

// abortUpload removes the parts of an upload. The error is fs.ErrNotExist if there is no
// such upload.
func abortUpload(ctx context.Context, b *bucket, key, upload string) error {
	if err := b.client.AbortMultipartUpload(ctx, b.name, key, upload); err != nil {
		return s3Reason(err)
	}
	return nil
}

// settling are the pauses after which an upload is aborted again if parts of it may have
// been under way: they may arrive after it was (Amazon S3 API reference,
// AbortMultipartUpload).
var settling = []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, 600 * time.Millisecond}

// abortSettled is abortUpload of an upload whose parts may still arrive.
func abortSettled(ctx context.Context, b *bucket, key, upload string) error {
	first := abortUpload(ctx, b, key, upload)
	if errors.Is(first, fs.ErrNotExist) {
		return first
	}
	err := first
	for _, d := range settling {
		time.Sleep(d)
		err = abortUpload(ctx, b, key, upload)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
