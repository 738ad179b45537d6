package store

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPartSize: a file of any length has at most the parts that an object may have, and
// fits them if it has all the bytes that were said.
func TestPartSize(t *testing.T) {
	for _, tt := range []struct{ size, want int64 }{
		{-1, 16 << 20},
		{0, 16 << 20},
		{1 << 30, 16 << 20},
		{9000 * 16 << 20, 17 << 20},
		{1 << 40, 117 << 20},
		{5 << 40, 583 << 20},
		{1<<63 - 1, 5 << 30},
	} {
		got := partSize(tt.size)
		if got != tt.want {
			t.Errorf("partSize(%d) = %d; want %d", tt.size, got, tt.want)
		}
		if tt.size < 1<<45 && got*maxParts < tt.size {
			t.Errorf("partSize(%d) = %d, of which %d are too few", tt.size, got, maxParts)
		}
	}
}

// FuzzUnfinished: what is taken for an upload of snap's is written as it was read, and
// leads to one bucket and one key.
func FuzzUnfinished(f *testing.F) {
	for _, u := range []unfinished{
		{"https://s3.example.com", "bucket", "a/b.dmp", "2~x_y", "token"},
		{"http://127.0.0.1:7070", "bucket", "what of?it=x&upload=y", "AbC/+=", "t"},
	} {
		f.Add(u.String())
		got, err := parseUnfinished(u.String())
		if diff := cmp.Diff(u, got, cmp.AllowUnexported(unfinished{})); err != nil || diff != "" {
			f.Errorf("parseUnfinished(%s): %v (-want +got):\n%s", u, err, diff)
		}
	}
	f.Add("s3://bucket/../a?endpoint=&upload=x&run=y")
	f.Add("s3://?endpoint=a&upload=b&run=c")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := parseUnfinished(text)
		if err != nil {
			return
		}
		if u.String() != text || checkBucket(u.bucket) != nil || checkKey(u.key) != nil {
			t.Errorf("parseUnfinished(%q) = %+v", text, u)
		}
	})
}
