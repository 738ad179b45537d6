package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"
)

// OpenObject opens the object at s3://BUCKET/KEY to read it where it lies, by pieces: ctx
// is that of its reads, too. The error is fs.ErrNotExist if there is none. An object that
// is replaced meanwhile gives ErrReplaced, never bytes of both.
func OpenObject(ctx context.Context, url string, o Options) (Reader, error) {
	b, key, err := openBucket("open", url, o)
	if err != nil {
		return nil, err
	}
	return b.open(ctx, key)
}

// open opens an object.
func (b *bucket) open(ctx context.Context, key string) (Reader, error) {
	if key == "" {
		return nil, &Error{"open", b.url(key), fmt.Errorf("%w: it is a bucket", ErrName)}
	}
	r := &object{bucket: b, key: key}
	r.ctx, r.cancel = context.WithCancel(ctx)
	first, err := r.begin()
	if err != nil {
		r.cancel()
		return nil, &Error{"open", b.url(key), err}
	}
	r.blocks = newBlockCache(r.ctx, r.size, r.fetch)
	r.blocks.put(0, first)
	return r, nil
}

// object is an object that is read.
type object struct {
	*bucket
	key    string
	size   int64
	etag   string
	ctx    context.Context
	cancel context.CancelFunc
	blocks *blockCache
}

// Size implements Reader.
func (r *object) Size() int64 { return r.size }

// Close implements Reader.
func (r *object) Close() error {
	r.cancel()
	return nil
}

// ReadAt implements io.ReaderAt.
func (r *object) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.blocks.readAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &Error{"read", r.url(r.key), err}
	}
	return n, err
}

// totalForm is the header of a part of an object: of which bytes, and of how many (RFC
// 9110, 14.4).
var totalForm = regexp.MustCompile(`^bytes 0-[0-9]{1,19}/([0-9]{1,19})$`)

// begin reads the first block, which says how long the object is and which it is.
func (r *object) begin() ([]byte, error) {
	var o minio.GetObjectOptions
	if err := o.SetRange(0, blockSize-1); err != nil {
		return nil, err
	}
	body, _, head, err := r.client.GetObject(r.ctx, r.name, r.key, o)
	if minio.ToErrorResponse(err).Code == minio.InvalidRange {
		return nil, nil // there is nothing in it
	}
	if err != nil {
		return nil, s3Reason(err)
	}
	defer body.Close()
	total := totalForm.FindStringSubmatch(head.Get("Content-Range"))
	if total == nil {
		return nil, fmt.Errorf("%w: it gives no parts of objects", ErrServer)
	}
	if r.size, err = strconv.ParseInt(total[1], 10, 64); err != nil || r.size == 0 {
		return nil, fmt.Errorf("%w: it says that the object has %s bytes", ErrServer, total[1])
	}
	r.etag = head.Get("ETag")
	first := make([]byte, min(r.size, blockSize))
	if _, err := io.ReadFull(body, first); err != nil {
		return first, r.fetch(first, 0)
	}
	return first, nil
}

// fetchTries is how often a part is asked for whose answer breaks off.
const fetchTries = 5

// fetch fills p with what is at off.
func (r *object) fetch(p []byte, off int64) (err error) {
	for range fetchTries {
		var again bool
		if again, err = r.get(p, off); !again || r.ctx.Err() != nil {
			break
		}
	}
	return err
}

// get is one attempt of fetch. Where its answer breaks off it is worth another one.
func (r *object) get(p []byte, off int64) (again bool, err error) {
	var o minio.GetObjectOptions
	if err := o.SetRange(off, off+int64(len(p))-1); err != nil {
		return false, err
	}
	if r.etag != "" {
		o.Set("If-Match", r.etag)
	}
	body, _, head, err := r.client.GetObject(r.ctx, r.name, r.key, o)
	switch err = s3Failure(err); {
	case errors.Is(err, fs.ErrExist): // a condition failed
		return false, ErrReplaced
	case err != nil:
		return false, err
	}
	defer body.Close()
	if got := head.Get("ETag"); got != r.etag {
		return false, ErrReplaced
	}
	if !strings.HasPrefix(head.Get("Content-Range"), fmt.Sprintf("bytes %d-", off)) {
		return false, fmt.Errorf("%w: it gives another part than it was asked for", ErrServer)
	}
	if _, err := io.ReadFull(body, p); err != nil {
		return true, fmt.Errorf("%w: %w", ErrServer, err)
	}
	return false, nil
}
