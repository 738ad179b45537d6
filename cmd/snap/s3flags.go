package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"snap/store"
)

// s3Flags say at which S3 server destinations and files at s3:// are. They are of every
// command: each reads or writes files.
type s3Flags struct {
	endpoint, region, credentials string
}

func (f *s3Flags) addTo(fl *pflag.FlagSet) {
	fl.StringVar(&f.endpoint, "s3-endpoint", "", "`URL` of the S3 server (default AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, else AWS's)")
	fl.StringVar(&f.region, "s3-region", "", "region of the bucket (default AWS_REGION)")
	fl.StringVar(&f.credentials, "s3-credentials", "", "`file` of credentials for S3, as ~/.aws/credentials is\n(default a systemd credential, the environment, ~/.aws, the role of the instance: docs/s3.md)")
}

// options are those of a place or a file.
func (f *s3Flags) options() store.S3 {
	return store.S3{Endpoint: f.endpoint, Region: f.region, Credentials: f.credentials}
}

// Variables by which the processes that snap starts know the server, too: what the flags
// say is put there.
const (
	s3EndpointVariable    = "SNAP_S3_ENDPOINT"
	s3RegionVariable      = "SNAP_S3_REGION"
	s3CredentialsVariable = "SNAP_S3_CREDENTIALS"
)

// export has the processes that are started from now on know the server.
func (f *s3Flags) export() error {
	credentials := f.credentials
	if credentials != "" {
		path, err := filepath.Abs(credentials) // the guardian is in another folder
		if err != nil {
			return fmt.Errorf("find %s: %w", credentials, err)
		}
		credentials = path
	}
	for name, value := range map[string]string{
		s3EndpointVariable: f.endpoint, s3RegionVariable: f.region, s3CredentialsVariable: credentials,
	} {
		if value == "" {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("set %s for the guardian: %w", name, err)
		}
	}
	return nil
}

// s3FromEnv are the options in a process that was started so.
func s3FromEnv() store.S3 {
	return store.S3{
		Endpoint: os.Getenv(s3EndpointVariable), Region: os.Getenv(s3RegionVariable), Credentials: os.Getenv(s3CredentialsVariable),
	}
}

// retainFlags say how long a bucket has to keep what is put there, and what becomes of
// what can't be put there.
type retainFlags struct {
	retain     string
	governance bool
	local      string // a folder, "" for none
}

func (f *retainFlags) addTo(fl *pflag.FlagSet) {
	fl.StringVar(&f.retain, "s3-retain", "", "have the bucket keep the object for that `time`, such as 30d: nobody can remove it before\n(object lock, mode compliance)")
	fl.BoolVar(&f.governance, "s3-governance", false, "--s3-retain that those can end who have the right to (mode governance)")
	fl.StringVar(&f.local, "keep-local", "", "`folder` where a copy is kept if the upload to S3 fails; it is written beside the upload")
}

// retainForm says what --s3-retain looks like.
const retainForm = "days or hours, such as 30d or 12h"

// maxRetain bounds how long an object is kept: what is longer was meant otherwise.
const maxRetain = 100 * 366 * 24 * time.Hour

// parse returns for how long, 0 where nothing was asked for. s3 is whether the file goes
// to a bucket: nothing else keeps files.
func (f *retainFlags) parse(s3 bool) (time.Duration, error) {
	switch {
	case f.local != "" && !s3:
		return 0, usageError("--keep-local is of uploads, and the file doesn't go to a bucket: -o s3://BUCKET/KEY")
	case f.retain == "" && f.governance:
		return 0, usageError("--s3-governance is of --s3-retain: say for how long, such as --s3-retain 30d")
	case f.retain == "":
		return 0, nil
	case !s3:
		return 0, usageError("--s3-retain is of buckets, and the file doesn't go to one: -o s3://BUCKET/KEY")
	}
	var d time.Duration
	var err error
	if days, ok := strings.CutSuffix(f.retain, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	} else {
		d, err = time.ParseDuration(f.retain)
	}
	if err != nil || d <= 0 || d > maxRetain {
		return 0, wrongValue("s3-retain", f.retain, retainForm)
	}
	return d, nil
}
