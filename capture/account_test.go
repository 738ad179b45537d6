package capture

import (
	"testing"

	"snap/manifest"
)

// TestMaxChanged holds counts of mode live against limits.
func TestMaxChanged(t *testing.T) {
	const pages = 20_000
	tests := []struct {
		limit             ChangeLimit
		changed, unstable uint64
		want              bool // degraded
		says              string
	}{
		{ChangeLimit{Share: 0.01}, 200, 0, false, "200 (1.0 %)"},
		{ChangeLimit{Share: 0.01}, 201, 0, true, "201 (1.0 %)"},
		{ChangeLimit{Share: 0.01}, 0, 1, true, "0 (0.0 %)"},
		{ChangeLimit{Share: 0.005}, 100, 0, false, "100 (0.5 %)"},
		{ChangeLimit{Share: 0.005}, 101, 0, true, "101 (0.5 %)"},
		{ChangeLimit{}, 1, 0, true, "1 (below 0.1 %)"},
		{ChangeLimit{}, 0, 0, false, "0 (0.0 %)"},
		{ChangeLimit{Pages: 1}, 2, 0, true, "2 (below 0.1 %)"},
		{ChangeLimit{Pages: 12}, 12, 0, false, "12 (0.1 %)"},
		{ChangeLimit{Share: 1}, pages, 0, false, "20,000 (100.0 %)"},
	}
	for _, tt := range tests {
		var m manifest.Manifest
		m.Pages.Written = pages
		addSmear(&m, &Smear{Changed: tt.changed, Metadata: Metadata{Pages: 50, Unstable: tt.unstable}}, tt.limit)
		if got := smeared(&m); got != tt.want {
			t.Errorf("at most %v: %d changed and %d unstable: smeared = %v; want %v", tt.limit, tt.changed, tt.unstable, got, tt.want)
		}
		if got := m.ChangedPages(); got != tt.says {
			t.Errorf("ChangedPages(%d of %d) = %q; want %q", tt.changed, pages, got, tt.says)
		}
		if warned := len(m.Warnings) > 0; warned != (tt.want && tt.unstable == 0) {
			t.Errorf("at most %v: %d changed: warnings %q", tt.limit, tt.changed, m.Warnings)
		}
	}
	if smeared(&manifest.Manifest{Pages: manifest.Pages{ChangedWhileReading: 1}}) {
		t.Error("a dump of another mode is smeared")
	}
	o := Options{}
	if got := o.maxChanged().of(pages); got != 200 {
		t.Errorf("by default %d of %d pages may change; want 200", got, pages)
	}
}
