package main

import (
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"snap/dump"
	"snap/store"
)

// fileKind is a kind of file that snap writes, by what the name of one may end in.
type fileKind struct {
	what string // for messages: "a plain dump"

	// endings are in lower case, the first is the one that snap gives itself. A name
	// without an ending says nothing, and any kind may have it that isn't encrypted.
	endings   []string
	encrypted bool
}

// encryptedFile is the kind of what is of kind k inside.
func encryptedFile(k fileKind) fileKind {
	e := fileKind{what: k.what + ", encrypted", encrypted: true}
	for _, ending := range k.endings {
		e.endings = append(e.endings, ending+store.EncryptedSuffix)
	}
	e.endings = append(e.endings, store.EncryptedSuffix)
	return e
}

// headerFile is the kind of what snap header writes.
func headerFile() fileKind {
	return fileKind{what: "a dump header", endings: []string{".hdr", ".header", ".bin"}}
}

// dumpFile is the kind of a dump in a container.
func dumpFile(c dump.Compression) fileKind {
	k := fileKind{what: "a plain dump", endings: []string{dumpEnding + c.Suffix()}}
	if c.Suffix() != "" {
		k.what = "a dump in " + string(c)
		k.endings = append(k.endings, c.Suffix())
	}
	return k
}

// dumpEnding ends the names of plain dumps.
const dumpEnding = ".dmp"

// takes reports whether a file of this kind may have that ending.
func (k fileKind) takes(ending string) bool {
	return ending == "" && !k.encrypted || slices.Contains(k.endings, ending)
}

// endingOf returns what a file's name ends in, in lower case: ".dmp" of WEB01.DMP,
// ".dmp.zst.age" of web01.dmp.zst.age, and "" where there is none. What is no word, such
// as the last part of a date or a version, is no ending.
func endingOf(name string) string {
	ending := ""
	for {
		last := extension(name)
		name = strings.TrimSuffix(name, last)
		ending = strings.ToLower(last) + ending
		if !isSuffix(strings.ToLower(last)) {
			return ending
		}
	}
}

// extension is filepath.Ext of a name whose last part says something.
func extension(name string) string {
	ext := filepath.Ext(name)
	if ext != "." && !strings.ContainsFunc(ext, unicode.IsLetter) {
		return ""
	}
	return ext
}

// isSuffix reports whether files in some container, or encrypted ones, end so.
func isSuffix(ext string) bool {
	return ext == store.EncryptedSuffix || slices.ContainsFunc(dump.Compressions(), func(c dump.Compression) bool { return ext != "" && c.Suffix() == ext })
}

// foreignEndings are those that people give files with a guest's memory, or compressed
// and encrypted ones: snap writes none of them.
var foreignEndings = []string{
	".xz", ".bz2", ".7z", ".lz4", ".lzma", ".lzo", ".rar", ".tar", ".tgz", ".gzip", ".zstd", ".zz", ".br",
	".gpg", ".pgp", ".asc", ".enc",
	".elf", ".core", ".kdump", ".vmcore", ".raw", ".img", ".bin", ".mem", ".lime", ".avml", ".vmem", ".vmss", ".vmsn",
	".mdmp", ".hdmp", ".hdr", ".header", ".json",
}

// rightName is a path that says that it is of the kind: its wrong ending is replaced
// if it is one of some kind of file, and else is taken for a part of the name.
func rightName(path string, k fileKind) string {
	for {
		ext := extension(path)
		lower := strings.ToLower(ext)
		if ext == "" || lower != dumpEnding && lower != "." && !isSuffix(lower) && !slices.Contains(foreignEndings, lower) ||
			filepath.Base(path) == ext {
			return path + k.endings[0]
		}
		path = strings.TrimSuffix(path, ext)
	}
}

// withoutSuffix is path without what tells that the file is compressed or encrypted.
func withoutSuffix(path string) string {
	for ext := filepath.Ext(path); isSuffix(strings.ToLower(ext)); ext = filepath.Ext(path) {
		path = strings.TrimSuffix(path, ext)
	}
	return path
}
