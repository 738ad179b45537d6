// Package input opens files that somebody named, whatever they turn out to be: it
// never waits for the other end of a pipe, never opens a device that isn't a disk,
// and says at once what a file is that can't be used, and what to do with it.
//
// [Open] is the one way in. A [File] is read at any offset. [Foreign] tells the
// files of other tools apart by their bytes: one line each in one table. [Expand]
// takes away the compression around a file.
package input
