#!/usr/bin/env bash
# bench-pause.sh [--fill MIB] [--rounds N] [--estimates N]: how long a lab guest stands still for
# snap dump, for the bare copy of its pages, and for virsh dump. Root on Debian,
# after scripts/deps.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

make --silent build
echo "$(nproc) processors: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo)"
echo "Linux $(uname -r), $(qemu-system-x86_64 --version | head -1), libvirt $(virsh --version)"
echo
exec go run ./internal/lab/cmd/benchpause "$@"
