#!/usr/bin/env bash
# soak.sh [KILLS]: kills so many dumps of lab guests (500), or stops them, in all modes
# and in namespaces as containers have, and looks after each that the guest runs, that
# nothing is left, that libvirt answered all the time and that no file but the dump got
# the guest's memory. make test does 60 of the same. Before that it looks at the headers
# of 50 guests of each generation of Windows, in each form, of which make check does 2.
# After it 500 snapshots of one guest are taken in a row, of which make test takes 24, and
# every fuzz target runs for FUZZTIME (default 10m).
# Root, as for all tests with daemons.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
	echo "scripts/soak.sh: run it as root: it starts libvirt's system daemon" >&2
	exit 1
fi
kills=${1:-500}
go test ./capture -count=1 -timeout 30m -v -run '^TestEveryGeneration$' -seeds 50
go test ./cmd/snap -count=1 -timeout "$((kills / 4 + 30))m" -v -run '^TestSoak$' -soak "$kills"
go test ./hv/libvirt -count=1 -timeout 60m -v -run '^TestSnapshotsInARow$' -snapshots 500
scripts/fuzz.sh "${FUZZTIME:-10m}"
