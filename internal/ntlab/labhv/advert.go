package labhv

import (
	"fmt"

	"snap/internal/ntlab"
)

// Names of the drivers of the guests that advertise.
const (
	goodDriver   = "secrets.sys"
	silentDriver = "silent.sys"
)

// greedyAttack is the one that keeps a dump from being made.
const greedyAttack = "more than half"

// advertise loads a driver that asks for memory of every kind, and for the
// page of the KDBG, and one that has a callback alone.
func advertise(im *ntlab.Image) error {
	table := &ntlab.Advert{Capacity: 32}
	for _, kind := range []ntlab.MarkKind{ntlab.MarkSmall, ntlab.MarkLarge, ntlab.MarkRunEnds, ntlab.MarkPartly} {
		marks, err := im.Mark(6, kind)
		if err != nil {
			return err
		}
		for _, m := range marks {
			table.Entries = append(table.Entries, m.Request())
		}
	}
	table.Entries = append(table.Entries, ntlab.RemovePages{
		Flags: ntlab.RemoveVirtual, Address: uint64(im.Truth.KDBG), Count: 1,
	})
	if _, err := im.Advertise(goodDriver, table); err != nil {
		return err
	}
	for _, name := range []string{goodDriver, silentDriver} {
		if _, err := im.Register(name); err != nil {
			return err
		}
	}
	return nil
}

// secret loads a driver that asks for memory of every kind that a guest of this size
// has, and can have all of it.
func secret(im *ntlab.Image) error {
	for i, kind := range ntlab.MarkKinds() {
		if kind == ntlab.MarkHuge {
			continue
		}
		if err := ask(im, fmt.Sprintf("secret%d.sys", i), kind); err != nil {
			return err
		}
	}
	return nil
}

// lost loads a driver that asks for memory that nobody finds.
func lost(im *ntlab.Image) error { return ask(im, goodDriver, ntlab.MarkSmall, ntlab.MarkLost) }

// ask loads a driver that asks for memory of some kinds.
func ask(im *ntlab.Image, driver string, kinds ...ntlab.MarkKind) error {
	table := &ntlab.Advert{}
	for _, kind := range kinds {
		marks, err := im.Mark(6, kind)
		if err != nil {
			return err
		}
		for _, m := range marks {
			table.Entries = append(table.Entries, m.Request())
		}
	}
	_, err := im.Advertise(driver, table)
	return err
}

// hiding hides half of memory.
func hiding(im *ntlab.Image) error {
	_, err := im.HideMemory()
	return err
}

// hostile loads the drivers of all attacks but the greedy one.
func hostile(im *ntlab.Image) error {
	return attack(im, func(name string) bool { return name != greedyAttack })
}

func greedy(im *ntlab.Image) error {
	return attack(im, func(name string) bool { return name == greedyAttack })
}

func attack(im *ntlab.Image, which func(name string) bool) error {
	for _, a := range ntlab.AdvertAttacks() {
		if !which(a.Name) {
			continue
		}
		if _, err := a.Edit(im); err != nil {
			return err
		}
	}
	return nil
}
