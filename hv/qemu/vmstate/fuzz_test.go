package vmstate

import "testing"

func FuzzParse(f *testing.F) {
	f.Add(smallStream().bytes())
	f.Add(newTestStream().blocks(testBlock{"a", 1 << 31}).part(zeroPage("a", 1<<18)).bytes())
	f.Fuzz(func(t *testing.T, b []byte) { checkResult(t, b) })
}

func FuzzParseDevices(f *testing.F) {
	f.Add(newTestStream().deviceBytes())
	f.Fuzz(func(t *testing.T, b []byte) { checkDevices(t, b) })
}
