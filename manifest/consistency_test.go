package manifest

import (
	"encoding/json"
	"testing"
)

// TestMoment: a manifest is believed to know no more than it says.
func TestMoment(t *testing.T) {
	for _, tt := range []struct {
		name, doc string
		want      Consistency
	}{
		{"one point in time", `{"mode":"pause","consistent":true,"consistency":"one point in time"}`, OnePointInTime},
		{"different times", `{"mode":"live","consistent":false,"consistency":"different times"}`, DifferentTimes},
		{"not known", `{"mode":"convert","consistent":false,"consistency":"not known"}`, NotKnown},
		{"converted, known", `{"mode":"convert","consistent":true,"consistency":"one point in time"}`, OnePointInTime},

		{"it contradicts itself", `{"mode":"live","consistent":true,"consistency":"different times"}`, NotKnown},
		{"the other way round", `{"mode":"pause","consistent":false,"consistency":"one point in time"}`, NotKnown},
		{"a word of tomorrow's", `{"mode":"pause","consistent":true,"consistency":"nearly"}`, NotKnown},

		{"older, pause", `{"mode":"pause","consistent":true}`, OnePointInTime},
		{"older, snapshot", `{"mode":"snapshot","consistent":true}`, OnePointInTime},
		{"older, live", `{"mode":"live","consistent":false,"live":{}}`, DifferentTimes},
		{"older, live of a paused guest", `{"mode":"live","consistent":true,"live":{}}`, OnePointInTime},
		{"older, converted", `{"mode":"convert","consistent":true}`, NotKnown},
		{"older, not said", `{"mode":"pause"}`, NotKnown},
		{"nothing", `{}`, NotKnown},
	} {
		var m Manifest
		if err := json.Unmarshal([]byte(tt.doc), &m); err != nil {
			t.Fatal(err)
		}
		if got := m.Moment(); got != tt.want {
			t.Errorf("%s: Moment() = %q; want %q", tt.name, got, tt.want)
		}
	}
	for _, c := range []Consistency{OnePointInTime, DifferentTimes, NotKnown} {
		var m Manifest
		m.SetMoment(c, "test")
		if m.Moment() != c || m.Consistent != (c == OnePointInTime) {
			t.Errorf("SetMoment(%q) gives %q, consistent %v", c, m.Moment(), m.Consistent)
		}
	}
}
