package ntlab

import (
	"errors"
	"testing"
)

func TestAttacksChangeTheGuest(t *testing.T) {
	for _, p := range Profiles() {
		names := map[string]bool{}
		base := build(t, Config{Profile: p, Memory: MinMemory, Seed: 14}).im
		before := digest(base)
		for _, a := range Attacks() {
			im := base.Clone()
			switch err := a.Edit(im); {
			case errors.Is(err, ErrNothingThere):
			case err != nil:
				t.Errorf("%s: %s: %v", p, a.Name, err)
			case digest(im) == before:
				t.Errorf("%s: %s changes nothing", p, a.Name)
			}
			if names[a.Name] || a.About == "" {
				t.Errorf("attack %q is there twice, or says nothing", a.Name)
			}
			names[a.Name] = true
		}
	}
}

func TestHarmlessAttacksKeepTheTruth(t *testing.T) {
	g := build(t, Config{Seed: 15})
	for _, a := range Attacks() {
		if a.Outcome == Found {
			if err := a.Edit(g.im); err != nil {
				t.Errorf("%s: %v", a.Name, err)
			}
		}
	}
	k := g.kdbg()
	if string(k[0x10:0x14]) != "KDBG" {
		t.Error("the KDBG is gone")
	}
	if got := len(g.list(uint64(g.im.Truth.PsActiveProcessHead))); got != len(g.im.Truth.Processes) {
		t.Errorf("%d processes; want %d", got, len(g.im.Truth.Processes))
	}
	if got := len(g.list(uint64(g.im.Truth.PsLoadedModuleList))); got != len(g.im.Truth.Modules) {
		t.Errorf("%d modules; want %d", got, len(g.im.Truth.Modules))
	}
}

func TestHalfDecodedKDBG(t *testing.T) {
	g := build(t, Config{Seed: 16})
	whole := g.bytes(uint64(g.im.Truth.KDBG), 0x380)
	if err := g.im.HalfDecodeKDBG(0x64); err != nil {
		t.Fatal(err)
	}
	got := g.bytes(uint64(g.im.Truth.KDBG), 0x380)
	if string(got[:0x60]) != string(g.im.Truth.KDBGPlain[:0x60]) || string(got[0x60:]) != string(whole[0x60:]) {
		t.Error("the first 0x60 bytes are to be plain, the rest as it was")
	}
}
