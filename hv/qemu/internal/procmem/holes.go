package procmem

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"snap/internal/sparse"
)

// eachData calls use, in ascending order, with the parts of the file behind p that can
// hold anything but zeros: without its holes, as far as they can be believed.
func (p piece) eachData(ctx context.Context, use func(lo, hi int64)) error {
	end := p.fileOff + int64(p.run.Size())
	fd := int(p.file.Fd())
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return fmt.Errorf("look at the file system of %s: %w", p.file.Name(), err)
	}
	switch fs.Type {
	case unix.HUGETLBFS_MAGIC:
		// It says of a whole file that it is data (default_llseek), but counts what is.
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("look at %s: %w", p.file.Name(), err)
		}
		if st.Blocks > 0 {
			use(p.fileOff, end)
		}
		return nil
	case unix.TMPFS_MAGIC, unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC:
		return sparse.Each(ctx, sparse.File{File: p.file}, p.fileOff, end, use)
	}
	// A page that a guest wrote to where there was a hole is in the host's cache
	// long before it is in the file. Those above look there (mapping_seek_hole_data,
	// Linux mm/filemap.c). FUSE asks its server, which doesn't know of it yet
	// (fuse_lseek, fs/fuse/file.c), and OpenZFS has been wrong about it (its issue
	// 15526): a page that counts as a hole by mistake would be lost.
	use(p.fileOff, end)
	return nil
}
