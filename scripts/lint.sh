#!/usr/bin/env bash
# Linters, each at an exact version, installed where they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/tools.sh

tool golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint v2.15.0
tool staticcheck honnef.co/go/tools/cmd/staticcheck v0.8.2

formatted
go vet ./...
"$tools/staticcheck" ./...
"$tools/golangci-lint" run ./...
go mod verify
echo "linters: clean"
