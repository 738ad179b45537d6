package guest

import "context"

// findPublished takes the page table that the guest published.
var findPublished = finder{
	Finder: Finder{
		Name:  "header that the guest published",
		Cost:  "reads nothing",
		Trust: "a driver in the guest made it when it started, for dumps; only cores that QEMU wrote have it",
	},
	find: func(_ context.Context, d *discovery, try func(candidate) bool) (string, error) {
		if len(d.published) == 0 {
			return "", nil
		}
		h, err := readPublished(d.published)
		if err != nil {
			return err.Error(), nil
		}
		const from = "published header"
		c := candidate{root: d.arch.pagings[0].root(h.table), from: from, hints: []hint{
			{h.kdbg, from + " KdDebuggerDataBlock"}, {h.modules, from + " PsLoadedModuleList"},
		}}
		return offer([]candidate{c}, try, ""), nil
	},
}
