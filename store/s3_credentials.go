package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Why a server can't be asked.
var (
	// ErrNoCredentials: there are none for S3.
	ErrNoCredentials = errors.New("there are no credentials for S3")

	// ErrCredentials: the server, or this host, takes none of those that there are.
	ErrCredentials = errors.New("the credentials are not accepted")
)

// systemdCredential is the name of the systemd credential (systemd.exec(5),
// LoadCredential=) that is a file of credentials.
const systemdCredential = "s3"

// s3Credentials returns where credentials come from: the first place that has any, in
// this order, which docs/s3.md lists. No error holds what is in a file: it may be the
// secret.
func s3Credentials(o S3, aws bool) (*credentials.Credentials, error) {
	if o.Credentials != "" {
		return profileIn(o.Credentials)
	}
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		if file := filepath.Join(dir, systemdCredential); exists(file) {
			return profileIn(file)
		}
	}
	if os.Getenv("AWS_ACCESS_KEY_ID") != "" && os.Getenv("AWS_SECRET_ACCESS_KEY") != "" {
		return credentials.New(&credentials.EnvAWS{}), nil
	}
	if hasProfile() {
		return profileIn("")
	}
	if aws || givenRole() {
		return credentials.New(&credentials.IAM{}), nil
	}
	return nil, ErrNoCredentials
}

// profileIn returns the credentials of a profile: that of AWS_PROFILE, or "default". ""
// are the files of AWS's tools.
func profileIn(file string) (*credentials.Credentials, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("%w: read %s: %w", ErrNoCredentials, file, reason(err))
		}
		_ = f.Close() // it was only tried
	}
	c := credentials.New(&credentials.FileAWSCredentials{Filename: file})
	v, err := c.GetWithContext(nil)
	if err != nil || v.AccessKeyID == "" || v.SecretAccessKey == "" {
		what := file
		if what == "" {
			what = "the files of AWS's tools (~/.aws/credentials, ~/.aws/config)"
		}
		return nil, fmt.Errorf("%w: %s has no profile of that name with aws_access_key_id and aws_secret_access_key (AWS_PROFILE names it, else it is default)", ErrNoCredentials, what)
	}
	return c, nil
}

// hasProfile reports whether there are files of AWS's tools, or a profile was named.
func hasProfile() bool {
	if os.Getenv("AWS_PROFILE") != "" {
		return true
	}
	file := os.Getenv("AWS_SHARED_CREDENTIALS_FILE")
	if file == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return false
		}
		file = filepath.Join(home, ".aws", "credentials")
	}
	return exists(file)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return !errors.Is(err, fs.ErrNotExist)
}

// givenRole reports whether this process was given a role as containers are: what speaks
// S3 and isn't AWS's may give some, too.
func givenRole() bool {
	for _, name := range []string{"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}
