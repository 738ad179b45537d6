package main

import (
	"errors"
	"io/fs"

	"snap/store"
)

// atBucket is a row for what fails in a bucket for that reason.
func atBucket(class error, code int, next func(call, error) string) cause {
	return cause{func(err error) bool {
		e, ok := errors.AsType[*store.Error](err)
		return ok && store.IsS3(e.Path) && errors.Is(err, class)
	}, code, next}
}

// s3Causes are what fails at s3://: what keeps an upload from being begun has the code that
// it has elsewhere, and what ends one that was begun is exitUpload.
func s3Causes() []cause {
	reasons := []cause{
		atBucket(store.ErrNoCredentials, exitDenied, say("give them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or --s3-credentials FILE; docs/s3.md has the order in which they are looked for")),
		atBucket(store.ErrCredentials, exitDenied, say("see whether they are those of that server (--s3-endpoint), and still valid; docs/s3.md has the order in which they are looked for")),
		atBucket(store.ErrClock, exitFailed, say("set this host's clock: timedatectl; a server takes no request whose time is far from its own")),
		atBucket(store.ErrNoBucket, exitFailed, say("make the bucket, or see whether its name and the server (--s3-endpoint) are right")),
		atBucket(store.ErrRegion, exitFailed, say("say in which region the bucket is: --s3-region, or AWS_REGION")),
		atBucket(store.ErrNoRetention, exitFailed, say("leave --s3-retain away, or use a bucket that was made with object lock")),
		atBucket(store.ErrEndpoint, exitUsage, say("give --s3-endpoint a URL like https://s3.example.com, and http:// only where the network may see all of it")),
		atBucket(store.ErrTooLong, exitFailed, say("name a folder with -o, and upload the file from there: it could not be told beforehand how long it becomes")),
		atBucket(store.ErrChecksum, exitFailed, say("take it again; if that fails too, something between this host and the server, or the server, changes bytes")),
		atBucket(store.ErrReplaced, exitFailed, say("run the same command again, for the object that is there now")),
		atBucket(fs.ErrExist, exitFailed, existsAdvice),
		atBucket(fs.ErrPermission, exitDenied, say("see what the credentials may do: docs/s3.md has the least that is needed to write and to read")),
		atBucket(store.ErrServer, exitFailed, say("see whether the server answers (--s3-endpoint) and what it says in its log, then try again")),
	}
	rows := []cause{
		ofType[*store.KeptError](exitUpload, func(_ call, err error) string {
			e, _ := errors.AsType[*store.KeptError](err)
			return "put it there by other means, and see why this did not work: " + shellPath(e.Path)
		}),
	}
	for _, r := range reasons {
		began := r
		began.code = exitUpload
		began.is = func(err error) bool {
			return r.is(err) && errors.Is(err, store.ErrUpload) && !errors.Is(err, fs.ErrExist)
		}
		rows = append(rows, began, r)
	}
	return append(rows,
		atBucket(store.ErrUpload, exitUpload, say("see whether the server answers, then take the dump again")),
		atBucket(fs.ErrNotExist, exitFailed, say("see whether the bucket and the key are right")),
	)
}
