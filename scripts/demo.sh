#!/usr/bin/env bash
# demo.sh: from a lab guest under libvirt to a verified crash dump, and what
# is in it. Root on Debian; make demo installs what it needs first.
set -euo pipefail
cd "$(dirname "$0")/.."

name=demo
folder=$(mktemp -d /tmp/snap-demo-XXXXXX)
finish() {
	scripts/lab down --name "$name" || true
	rm -rf "$folder"
}
trap finish EXIT

# say COMMAND...: shows a command as a person would type it, then runs it.
say() {
	printf '\n$ %s\n' "${*/#bin\/snap/snap}"
	"$@"
}

echo "Starting a lab guest with 4 processors and 512 MiB under qemu:///system ..."
scripts/lab up --name "$name" --memory 512 --cpus 4
domain=snap-lab-$name
export LIBVIRT_DEFAULT_URI=qemu:///system SNAP_LOG_FORMAT=console

say bin/snap list
say bin/snap check "$domain"
say bin/snap dump "$domain" -o "$folder/demo.dmp.zst"
say bin/snap verify "$folder/demo.dmp.zst"
say bin/snap info "$folder/demo.dmp.zst"
say bin/snap expand "$folder/demo.dmp.zst" -o "$folder/demo.dmp"
say ls -lsh "$folder"
