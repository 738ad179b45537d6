#!/usr/bin/env bash
# Linters, each at an exact version, installed where they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=$PWD/bin/tools
mkdir -p "$bin"

# tool NAME MODULE VERSION: install NAME unless that version is there.
tool() {
	local stamp=$bin/.$1-$3
	[ -e "$stamp" ] && [ -x "$bin/$1" ] && return
	echo "installing $1 $3"
	GOBIN=$bin go install "$2@$3"
	touch "$stamp"
}

tool golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint v2.15.0
tool gofumpt mvdan.cc/gofumpt v0.12.0
tool staticcheck honnef.co/go/tools/cmd/staticcheck v0.8.2

unformatted=$("$bin/gofumpt" -l .)
if [ -n "$unformatted" ]; then
	printf 'not formatted with gofumpt:\n%s\n' "$unformatted" >&2
	exit 1
fi
go vet ./...
"$bin/staticcheck" ./...
"$bin/golangci-lint" run ./...
go mod verify
echo "linters: clean"
