package boot

import (
	"fmt"
	"os"
	"testing"
)

func TestTmp(t *testing.T) {
	b := newBare(t, 512<<20, 4)
	p, err := Prepare(b, Options{FillPages: 20000, Windows: b.RAM(), Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	f, _ := os.Create("/tmp/bare.elf")
	if err := p.WriteELF(f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	fmt.Printf("%+v\n%+v %d fills\n", p.Info.Ready, p.Info.VCPUs, len(p.Info.Fills))
}
