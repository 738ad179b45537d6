// Package capture takes a dump of a Windows guest, in three steps with values
// between them:
//
//	acquire → Moment → analyze → Analysis → write → Result
//
// A Mode acquires: it gets the guest's memory and processors, of one point in
// time where it can, and says how that went. Analyze finds out what is in the
// memory, decides which pages stay out, and makes the header and the plan of the
// file. Writing reads the pages, compresses them into a file of a store.Place,
// reads the file back, verifies it, and gives it its name.
//
// Take does all of it. A Session is the guest before the first step: opened, and
// analyzed while it runs; it says what each mode would take. Convert and Repack
// make dumps from files that hold a guest.
//
// The guest is never written to, and whatever held it still is undone on every
// path. This package holds a guest; that it goes on when this process is killed
// is for package guardian.
package capture
