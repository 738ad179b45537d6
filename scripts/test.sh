#!/usr/bin/env bash
# test.sh [FLAG...]: all tests; FLAGs go to go test. Root,
# because libvirt's system daemon, mounts and a second user are part of what is tested.
#
# First the packages that need no daemons: they use all processors, and fail early.
# Then, beside each other, those that need them (CONTRIBUTING.md): their tests mostly
# wait, and what they measure would suffer from the first ones. The command itself is
# tested without the race detector: under it whole dumps take minutes, and the dumps of
# real guests are taken by the program as it ships. What it is made of is in the others.
# So are those tests of capture that take dumps of many guests one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
	echo "scripts/test.sh: run it as root: the tests start libvirt's system daemon and a guest as another user" >&2
	exit 1
fi

. scripts/tools.sh
servers

# Some guests are under KVM, where that works: their tests log it, too.
go run ./internal/lab/cmd/lab accel

imports='{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}'
mapfile -t daemons < <(go list -f "$imports" ./... | grep -E ' snap/internal/lab(/labtest)?( |$)' | cut -d' ' -f1)
mapfile -t others < <(go list ./... | grep -vxF -f <(printf '%s\n' "${daemons[@]}"))

many='AdvertisedPagesAreGone|PartOfHugePageIsGone|LostPagesAreSaid|HiddenMemory|UnusableBlock|Unmet|OperatorsOddPages'
many+='|HostileAdverts|HostileGuests|Repack|EveryState|VariantHeaders|EveryGeneration|HalfDecodedGenerations|CrashedProcessor|Room|PrepareIsTake'
many="^(Test($many)|FuzzHostileGuest)$"

failed=0
go test -timeout 30m "$@" -run "$many" ./capture &
dumps=$!
go test -race -timeout 30m "$@" -skip "$many" "${others[@]}" || failed=1
wait "$dumps" || failed=1
mapfile -t daemons < <(printf '%s\n' "${daemons[@]}" | grep -vxF snap/cmd/snap)
go test -timeout 35m -parallel 3 "$@" ./cmd/snap &
command=$!
go test -race -timeout 30m -p 2 -parallel 3 "$@" "${daemons[@]}" || failed=1
wait "$command" || failed=1
exit "$failed"
