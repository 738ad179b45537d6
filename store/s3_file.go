package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/minio/minio-go/v7"
)

// markHeader is the user metadata by which an object is known to be of one upload: an
// answer may be lost on its way.
const markHeader = "Snap-Upload"

// Headers by which the server holds what it gets against its SHA-256 (Amazon S3 API
// reference, "Checking object integrity").
const (
	algorithmHeader = "X-Amz-Checksum-Algorithm"
	checksumHeader  = "X-Amz-Checksum-Sha256"
)

// s3File is an object that isn't there yet. What is written is gathered into parts, and a
// part that is full is sent while others are filled. A file of less than a part is sent
// whole.
type s3File struct {
	sum
	place  *s3Place
	key    string
	mark   string    // markHeader's
	until  time.Time // of retention, zero for none
	parts  *s3Parts
	closed bool
}

var (
	_ Sized    = (*s3File)(nil)
	_ KeptFile = (*s3File)(nil)
)

// newS3File returns the file of a key. ctx is that of its writes.
func newS3File(ctx context.Context, p *s3Place, key string) *s3File {
	f := &s3File{sum: newSum(p.options), place: p, key: key, mark: rand.Text()}
	if p.options.S3.Retain > 0 {
		f.until = time.Now().Add(p.options.S3.Retain)
	}
	f.parts = newS3Parts(ctx, f)
	return f
}

// KeptUntil implements KeptFile.
func (f *s3File) KeptUntil() time.Time { return f.until }

// path is how messages call the file.
func (f *s3File) path() string { return f.place.url(f.key) }

// Expect implements Sized.
func (f *s3File) Expect(size int64) { f.parts.expect(size) }

// Write implements io.Writer.
func (f *s3File) Write(p []byte) (int, error) {
	if f.closed {
		return 0, os.ErrClosed
	}
	n, err := f.write(p, f.parts.write)
	if err != nil {
		err = f.failed("write", err)
	}
	return n, err
}

// failed is the error of an upload that went wrong.
func (f *s3File) failed(doing string, err error) error {
	return &Error{doing, f.path(), fmt.Errorf("%w: %w", ErrUpload, err)}
}

// Reopen implements File: nobody can read what isn't completed.
func (f *s3File) Reopen(context.Context) (io.ReaderAt, int64, error) {
	return nil, 0, fmt.Errorf("read %s: %w before it is whole", f.path(), ErrWriteOnly)
}

// Commit implements File: the object is there from when the server has completed it.
func (f *s3File) Commit(ctx context.Context) error {
	if f.closed {
		return fmt.Errorf("commit %s: %w", f.path(), os.ErrClosed)
	}
	send := f.putWhole
	if f.parts.begun() {
		send = f.complete
	}
	err := send(ctx)
	if err != nil && f.arrived(ctx, err) {
		err = nil
	}
	if err != nil {
		return errors.Join(f.failed("commit", err), f.Abort())
	}
	f.closed = true
	f.parts.end()
	return nil
}

// options are those of the request that makes the object known.
func (f *s3File) options() minio.PutObjectOptions {
	o := minio.PutObjectOptions{
		UserMetadata:         map[string]string{markHeader: f.mark},
		DisableContentSha256: true, // in pieces: it is made of the whole, beforehand
	}
	if !f.until.IsZero() {
		o.Mode, o.RetainUntilDate = minio.Compliance, f.until
		if f.place.options.S3.Governance {
			o.Mode = minio.Governance
		}
	}
	return o
}

// reason is s3Reason of a request that may ask for retention, which a bucket without object
// lock calls invalid and says no more.
func (f *s3File) reason(err error) error {
	why := s3Reason(err)
	if !f.until.IsZero() && minio.ToErrorResponse(err).Code == "InvalidRequest" {
		return fmt.Errorf("%w: %w", ErrNoRetention, why)
	}
	return why
}

// onlyNew has the server replace nothing, unless the file may.
func (f *s3File) onlyNew(o *minio.PutObjectOptions) {
	if !f.place.options.Force {
		o.SetMatchETagExcept("*")
	}
}

// putWhole sends a file of less than a part.
func (f *s3File) putWhole(ctx context.Context) error {
	content := f.parts.filling
	hash := sha256.Sum256(content)
	want := base64.StdEncoding.EncodeToString(hash[:])
	return f.unlessConditions(ctx, func(conditions bool) error {
		o := f.options()
		o.UserMetadata[checksumHeader] = want
		if conditions {
			f.onlyNew(&o)
		}
		info, err := f.place.client.PutObject(ctx, f.place.name, f.key, bytes.NewReader(content), int64(len(content)), "", hex.EncodeToString(hash[:]), o)
		if err != nil {
			return f.reason(err)
		}
		return sameChecksum(info.ChecksumSHA256, want)
	})
}

// complete makes an object of the parts.
func (f *s3File) complete(ctx context.Context) error {
	parts, checksum, err := f.parts.finish()
	if err != nil {
		return err
	}
	return f.unlessConditions(ctx, func(conditions bool) error {
		var o minio.PutObjectOptions
		if conditions {
			f.onlyNew(&o)
		}
		info, err := f.place.client.CompleteMultipartUpload(ctx, f.place.name, f.key, f.parts.upload, parts, o)
		if err != nil {
			return s3Reason(err)
		}
		return sameChecksum(info.ChecksumSHA256, checksum)
	})
}

// unlessConditions sends a request with conditions, and where the server has none
// without them, once it is known that nothing has the name.
func (f *s3File) unlessConditions(ctx context.Context, send func(conditions bool) error) error {
	err := send(true)
	if f.place.options.Force || !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if err := f.place.Check(ctx, f.nameOfKey()); err != nil {
		return err
	}
	return send(false)
}

func (f *s3File) nameOfKey() string { return f.key[len(f.place.prefix):] }

// ErrChecksum says that a server has other bytes than it was sent.
var ErrChecksum = errors.New("the server has other bytes than were sent")

// sameChecksum fails if a server says that it has something else; not all say.
func sameChecksum(got, want string) error {
	if got != "" && got != want {
		return fmt.Errorf("%w: SHA-256 %.100q, not %s", ErrChecksum, got, want)
	}
	return nil
}

// askedFor is how long it may take to find out what became of an object.
const askedFor = 3 * time.Second

// arrived reports whether the object is there all the same: of a request that was
// repeated, or whose answer was lost, the server may have done the first.
func (f *s3File) arrived(ctx context.Context, err error) bool {
	if errors.Is(err, ErrChecksum) {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askedFor)
	defer cancel()
	info, statErr := f.place.client.StatObject(ctx, f.place.name, f.key, minio.StatObjectOptions{})
	return statErr == nil && info.UserMetadata[markHeader] == f.mark && info.Size == f.parts.taken
}

// Abort implements File.
func (f *s3File) Abort() error {
	if f.closed {
		return nil
	}
	f.closed = true
	cut := f.parts.end()
	if f.parts.upload == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), abortFor-time.Second)
	defer cancel()
	abort := abortUpload
	if cut {
		abort = abortSettled
	}
	err := abort(ctx, &f.place.bucket, f.key, f.parts.upload)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("abort the upload of %s: %w: %w", f.path(), ErrLeftBehind, err)
	}
	return nil
}
