package catalog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"snap/manifest"
	"snap/store"
)

// Manifests are read several at a time, since a server takes its time to answer for
// each. What they have in memory together is bounded by what the largest one may have:
// a share of that is what the smallest counts for.
const (
	readTogether = 32
	leastShare   = manifest.MaxSize / readTogether // bytes
)

// documentSum is the SHA-256 of a manifest's bytes.
type documentSum [sha256.Size]byte

// document is what was read of a file that may be a manifest.
type document struct {
	account *Account // nil if it is none
	sum     documentSum
	why     string // it is none
}

// signed reports whether it says that its signature lies beside it.
func (d document) signed() bool { return d.account != nil && d.account.SignedBy != "" }

// readManifests reads all files that are called as manifests are.
func readManifests(ctx context.Context, a store.Archive, files []store.Entry) (map[string]document, error) {
	documents := map[string]document{}
	var mu sync.Mutex
	room := semaphore.NewWeighted(manifest.MaxSize)
	all, reading := errgroup.WithContext(ctx)
	for _, f := range files {
		if !strings.HasSuffix(f.Name, manifest.Suffix) {
			continue
		}
		share := min(max(f.Size, leastShare), manifest.MaxSize)
		if room.Acquire(reading, share) != nil {
			break
		}
		all.Go(func() error {
			defer room.Release(share)
			d, err := readManifest(reading, a, f.Name, share)
			mu.Lock()
			defer mu.Unlock()
			documents[f.Name] = d
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	return documents, ctx.Err()
}

// readManifest reads a file that may be a manifest, of at most so many bytes. That it
// is none is no error.
func readManifest(ctx context.Context, a store.Archive, name string, most int64) (document, error) {
	doc, err := content(ctx, a, name, most)
	if err != nil {
		if ctx.Err() != nil {
			return document{}, err
		}
		return document{why: fmt.Sprintf("what would be its manifest can't be read: %v", err)}, nil
	}
	m, err := manifest.Decode(doc)
	if err != nil {
		return document{why: fmt.Sprintf("what would be its manifest is none: %v", err)}, nil
	}
	return document{account: accountOf(m), sum: sha256.Sum256(doc)}, nil
}

// errTooLarge is of a file that is too long for a manifest.
var errTooLarge = errors.New("it is too large for a manifest")

// content reads a file of at most so many bytes.
func content(ctx context.Context, a store.Archive, name string, most int64) ([]byte, error) {
	r, err := a.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	size := r.Size()
	if size < 0 || size > most {
		return nil, fmt.Errorf("%w: %d bytes; the most is %d", errTooLarge, size, most)
	}
	doc := make([]byte, size)
	if n, err := r.ReadAt(doc, 0); n < len(doc) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return doc, nil
}
