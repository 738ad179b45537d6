#!/usr/bin/env bash
# All tests, under the race detector. Root, because libvirt's system daemon,
# mounts and a second user are part of what is tested.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
	echo "scripts/test.sh: run it as root: the tests start libvirt's system daemon and a guest as another user" >&2
	exit 1
fi
exec go test -race -timeout 30m "$@" ./...
