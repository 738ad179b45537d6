package verify

import (
	"os"
	"strings"
	"testing"
)

// TestRealHeaders: what can be said of real dumps whose pages are not here.
// The full dumps are LiveKD's, which leaves its header out of
// RequiredDumpSpace; the checks of the header's own values pass.
func TestRealHeaders(t *testing.T) {
	tests := []struct {
		file   string
		failed []string
		detail string // part of the first failure's
	}{
		{"livekd_win10_x64.bin", []string{CheckFileSize, CheckDirectoryTable, CheckRequiredDumpSpace}, "truncated"},
		{"livekd_win7_x86.bin", []string{CheckFileSize, CheckDirectoryTable, CheckRequiredDumpSpace}, "truncated"},
		{"triage_x64.bin", []string{CheckKind}, "triage dump of AMD64"},
		{"triage_arm64.bin", []string{CheckKind}, "triage dump of ARM64"},
	}
	for _, tt := range tests {
		b, err := os.ReadFile("../../header/testdata/" + tt.file)
		if err != nil {
			t.Fatal(err)
		}
		r := verified(t, b, Options{})
		var failed []string
		for _, c := range r.Findings() {
			failed = append(failed, c.Name)
		}
		if strings.Join(failed, ", ") != strings.Join(tt.failed, ", ") || !strings.Contains(r.Failed()[0].Detail, tt.detail) {
			t.Errorf("%s: failed %q, the first for %q; want %q for %q", tt.file, failed, r.Failed()[0].Detail, tt.failed, tt.detail)
		}
	}
}
