package dump

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
)

// gzipContainer is a gzip file of many members.
func gzipContainer() container {
	return container{
		name:    CompressionGzip,
		doc:     "for where there is no zstd: gunzip expands it; without the account of the dump inside",
		suffix:  ".gz",
		encoder: newGzipEncoder,
		decoder: func(Options) (decoder, error) { return new(memberExpander), nil },
		sniff:   func(head []byte) bool { return bytes.HasPrefix(head, gzipMagic) },
		open:    openGzip,
	}
}

// gzipEncoder makes each frame a member of its own (RFC 1952 2.2), which says
// how long it is.
type gzipEncoder struct {
	z   *gzip.Writer
	out bytes.Buffer
}

func newGzipEncoder(o Options) (encoder, error) {
	z, err := gzip.NewWriterLevel(nil, gzipLevel(o.Level))
	if err != nil {
		return nil, fmt.Errorf("set up gzip: %w", err)
	}
	return &gzipEncoder{z: z}, nil
}

func gzipLevel(l Level) int {
	switch l {
	case LevelDefault:
		return 5
	case LevelBetter:
		return 7
	case LevelBest:
		return gzip.BestCompression
	default:
		return gzip.BestSpeed
	}
}

func (e *gzipEncoder) encode(dst, src []byte) ([]byte, error) {
	e.out = *bytes.NewBuffer(dst[:0])
	e.z.Reset(&e.out)
	e.z.Extra = memberField()
	if _, err := e.z.Write(src); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if err := e.z.Close(); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	member := e.out.Bytes()
	sealMember(member)
	return member, nil
}

// openGzip reads a gzip file: with random access where the members say how long
// they are, as ours do, and else as a stream.
func openGzip(r io.ReaderAt, size int64) (*contents, error) {
	table, err := readMembers(r, size)
	if err != nil {
		return nil, err
	}
	if table == nil {
		return &contents{body: &streamBody{field: "gzip", tool: "gunzip", open: func() (io.ReadCloser, error) {
			return gzip.NewReader(io.NewSectionReader(r, 0, size))
		}}}, nil
	}
	return &contents{
		Container: Container{
			RandomAccess: true, Checksums: true, Frames: table.count, FrameSize: table.largest,
		},
		body: newFramedBody(r, table, new(memberExpander)),
	}, nil
}
