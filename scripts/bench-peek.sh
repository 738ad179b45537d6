#!/usr/bin/env bash
# bench-peek.sh [--memory MIB] [--fill MIB] [--rounds N]: how a lab guest is read through libvirt,
# and how long snap dump --source peek takes of it. Root on Debian, after scripts/deps.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

make --silent build
echo "$(nproc) processors: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo)"
echo "Linux $(uname -r), $(qemu-system-x86_64 --version | head -1), libvirt $(virsh --version)"
echo
exec go run ./internal/lab/cmd/benchpeek "$@"
