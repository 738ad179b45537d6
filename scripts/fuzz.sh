#!/usr/bin/env bash
# fuzz.sh [TIME]: runs every fuzz target for TIME (default 20s) on top of its committed
# corpus. It goes on after a target that fails, and fails in the end. It fails before all
# if it can't list every target that the tree has.
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:-20s}
targets=()
for package in $(go list ./...); do
	listed=$(go test -list '^Fuzz' "$package") # fails if the tests don't compile
	for target in $(grep '^Fuzz' <<<"$listed" || true); do
		targets+=("$package $target")
	done
done
have=$(grep -rhE --include='*_test.go' '^func Fuzz[A-Z]' . | wc -l)
if [ "${#targets[@]}" != "$have" ]; then
	echo "fuzz.sh: go test lists ${#targets[@]} fuzz targets, and the tree has $have" >&2
	exit 1
fi

failed=()
for t in "${targets[@]}"; do
	read -r package target <<<"$t"
	echo "== $package $target"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1x "$package" || failed+=("$t")
done
if [ "${#failed[@]}" != 0 ]; then
	printf 'fuzz.sh: failed: %s\n' "${failed[@]}" >&2
	exit 1
fi
