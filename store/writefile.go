package store

import (
	"context"
	"errors"
	"fmt"
)

// WriteFile puts a small file in its place: b under that name, or nothing.
func WriteFile(ctx context.Context, p Place, name string, b []byte) error {
	f, err := p.Create(ctx, name)
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", p.Path(name), err), f.Abort())
	}
	return f.Commit(ctx)
}
