package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"github.com/minio/minio-go/v7"
)

// Why a bucket doesn't take a file, or give one.
var (
	// ErrUpload: a file did not get to the server, or not whole.
	ErrUpload = errors.New("the upload failed")

	// ErrNoBucket: there is no such bucket at that server.
	ErrNoBucket = errors.New("there is no such bucket")

	// ErrRegion: the bucket is in another region.
	ErrRegion = errors.New("the bucket is in another region")

	// ErrClock: this host's clock and the server's differ too much.
	ErrClock = errors.New("this host's clock and the server's differ")

	// ErrNoRetention: the bucket keeps nothing, since it was made without object lock.
	ErrNoRetention = errors.New("the bucket has no object lock")

	// ErrServer: the server fails, or can't be reached.
	ErrServer = errors.New("the S3 server fails")

	// ErrReplaced: the object became another one while it was read.
	ErrReplaced = errors.New("the object was replaced meanwhile")
)

// s3Codes are what a server's reasons mean (Amazon S3 API reference, "Error responses").
var s3Codes = map[string]error{
	"AccessDenied":          fs.ErrPermission,
	"AllAccessDisabled":     fs.ErrPermission,
	"AccountProblem":        fs.ErrPermission,
	"InvalidAccessKeyId":    ErrCredentials,
	"SignatureDoesNotMatch": ErrCredentials,
	"ExpiredToken":          ErrCredentials,
	"ExpiredTokenException": ErrCredentials,
	"InvalidToken":          ErrCredentials,
	"InvalidClientTokenId":  ErrCredentials,
	"TokenRefreshRequired":  ErrCredentials,
	"NotSignedUp":           ErrCredentials,
	"RequestTimeTooSkewed":  ErrClock,
	"RequestExpired":        ErrClock,
	"NoSuchBucket":          ErrNoBucket,
	"NoSuchKey":             fs.ErrNotExist,
	"NoSuchVersion":         fs.ErrNotExist,
	"NoSuchUpload":          fs.ErrNotExist,

	"PermanentRedirect":            ErrRegion,
	"TemporaryRedirect":            ErrRegion,
	"AuthorizationHeaderMalformed": ErrRegion,
	"IllegalLocationConstraint":    ErrRegion,
	"InvalidRegion":                ErrRegion,

	"PreconditionFailed":          fs.ErrExist,
	"ConditionalRequestConflict":  fs.ErrExist,
	"NotImplemented":              errors.ErrUnsupported,
	"BadDigest":                   ErrChecksum,
	"InvalidDigest":               ErrChecksum,
	"XAmzContentSHA256Mismatch":   ErrChecksum,
	"XAmzContentChecksumMismatch": ErrChecksum,

	"ObjectLockConfigurationNotFoundError": ErrNoRetention,
	"InvalidBucketObjectLockConfiguration": ErrNoRetention,
}

// s3Failure is s3Reason of what may be no error.
func s3Failure(err error) error {
	if err == nil {
		return nil
	}
	return s3Reason(err)
}

// s3Reason says why a request failed. What a server says is quoted, and cut: it may be
// anybody's.
func s3Reason(err error) error {
	e := minio.ToErrorResponse(err)
	if e.Code == "" {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrServer, err)
	}
	class, ok := s3Codes[e.Code]
	switch {
	case ok:
	case e.StatusCode == http.StatusForbidden:
		class = fs.ErrPermission
	default:
		class = ErrServer
	}
	return fmt.Errorf("%w: the server says %.60q (%.200q)", class, e.Code, e.Message)
}
