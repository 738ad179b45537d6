# Everything a person or a machine runs on this tree. Debian, as root where
# the tests need real daemons.

GO      ?= go
# The next release, and from which commit this is on the way to it (semver.org, item 10).
VERSION ?= $(shell cat VERSION)$(shell git describe --always --dirty --exclude '*' 2>/dev/null | sed 's/^/+g/; s/-dirty/.dirty/')
LDFLAGS  = -s -w -X main.version=$(VERSION)
# How long each fuzz target runs; empty is 20s, and 10m in make soak.
FUZZTIME ?=

.PHONY: all build layout install uninstall package packagetest check test soak lint fuzz bench gobench demo deps clean

all: build

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/snap ./cmd/snap

# Where make install puts things; scripts/install.sh says what DESTDIR and SNAP do.
PREFIX ?= /usr/local
export PREFIX DESTDIR SNAP

# What is installed beside the program.
layout: build
	rm -rf bin/layout
	scripts/layout.sh bin/snap bin/layout
	cp bin/snap bin/layout/memsnap
	cp packaging/snap-is-free.sh bin/layout/

install: layout
	scripts/install.sh install bin/layout

uninstall: layout
	scripts/install.sh uninstall bin/layout

# A Debian package and a tarball for amd64 and for arm64, in bin/package.
package:
	scripts/package.sh

# The packages are built twice, looked at, installed beside others and removed (root).
packagetest: deps
	scripts/package-test.sh

# Packages that the lab, the tests and the demo need (Debian, root).
deps:
	scripts/deps.sh

# After every change: format, vet, and the tests that need no daemons.
check: deps
	scripts/check.sh

# All tests, those with a real libvirtd and QEMU included.
test: deps
	scripts/test.sh

# So many dumps killed or stopped, at any moment: after each the guest runs and nothing
# is left. make test does 60 of them. Then every fuzz target runs for FUZZTIME (10m).
KILLS ?= 500
soak: deps
	FUZZTIME=$(FUZZTIME) scripts/soak.sh $(KILLS)

lint:
	scripts/lint.sh

# Every fuzz target for FUZZTIME (20s) each.
fuzz:
	scripts/fuzz.sh $(FUZZTIME)

# What dumps take beside libvirt's own and beside the physical limits, on lab guests: some
# ten minutes of a machine that does nothing else. docs/benchmarks has the results;
# BENCH="-sizes 2,4,8" and the like say what is measured (BENCH=-help lists it).
bench: deps build
	$(GO) run ./internal/lab/cmd/bench $(BENCH)

# The parts of it: Go's benchmarks of all packages.
gobench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

# A lab guest under libvirt, dumped, verified and looked into.
demo: deps build
	scripts/demo.sh

clean:
	rm -rf bin
