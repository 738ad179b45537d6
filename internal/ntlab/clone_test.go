package ntlab

import "testing"

// A clone begins as its image, and neither sees what is done to the other's pages.
func TestClone(t *testing.T) {
	for _, p := range Profiles() {
		g := build(t, Config{Profile: p, Memory: MinMemory, Seed: 17})
		if err := g.im.Fill(1<<20, Mix{Text: 1}); err != nil {
			t.Fatal(err)
		}
		before := digest(g.im)
		c, d := g.im.Clone(), g.im.Clone()
		if digest(c) != before || len(c.Populated()) != len(g.im.Populated()) {
			t.Errorf("%s: a clone is not as its image", p)
		}
		e := &edits{im: d}
		e.put64(d.Truth.KDBG, 1)
		if _, err := d.AllocPages(3); err != nil || e.err != nil {
			t.Errorf("%s: %v, %v", p, err, e.err)
		}
		if digest(d) == before || digest(c) != before || digest(g.im) != before {
			t.Errorf("%s: what is done to a clone shows elsewhere, or not in it", p)
		}
	}
}
