// Package driver has no code: it is the place of the C header by which a
// Windows driver tells a host what to leave out of a dump (snap_advert.h), of
// the sample driver that uses it (snapadv), and of their tests. README.md is
// for authors of drivers.
package driver
