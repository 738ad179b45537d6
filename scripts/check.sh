#!/usr/bin/env bash
# check.sh [FLAG...]: what to run after every change: format, go vet, and all tests
# that need no daemons. Go keeps the results of packages that didn't change. FLAGs
# go to go test: -count=1 runs those too.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/tools.sh

formatted
go vet ./...
# -short leaves out tests that call labtest.NeedsDaemons.
go test -short "$@" ./...
echo "check: clean. make test runs the tests with real daemons as well, make lint the linters."
