#!/usr/bin/env bash
# bench.sh [RUNS]: how long snap and libvirt's own dump take for one lab guest
# of 2 GiB, 1.5 GiB of it filled, all into memory (/dev/shm). Prints a table in
# Markdown: medians of RUNS (default 5), interleaved. Root on Debian.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-5}
name=bench
domain=snap-lab-$name
folder=$(mktemp -d /dev/shm/snap-bench-XXXXXX)
finish() {
	scripts/lab down --name "$name" >/dev/null 2>&1 || true
	rm -rf "$folder"
}
trap finish EXIT

make -s build
scripts/lab up --name "$name" --memory 2048 --cpus 2 --fill 1536 --mode idle >/dev/null
export LIBVIRT_DEFAULT_URI=qemu:///system

# timed LABEL COMMAND...: runs COMMAND, notes its time and the file's size.
timed() {
	local label=$1 start end
	shift
	rm -f "$folder"/out*
	start=$(date +%s%N)
	"$@" >"$folder/json" 2>/dev/null
	end=$(date +%s%N)
	printf '%s\t%d\t%d\t%s\n' "$label" $(((end - start) / 1000000)) "$(stat -c %s "$folder"/out)" \
		"$(jq -r '.pause_ms // empty' "$folder/json" 2>/dev/null || true)" >>"$folder/results"
}

core() { virsh dump --memory-only "$domain" "$folder/out" "$@" >/dev/null; }
take() { bin/snap dump "$domain" -o "$folder/out" --json --manifest=false --max-pause 10m "$@"; }

for ((i = 0; i < runs; i++)); do
	timed 'virsh dump --memory-only (ELF)' core
	timed 'virsh dump, kdump-zlib' core --format kdump-zlib
	timed 'snap dump, direct, zstd' take
	timed 'snap dump, direct, none' take --compress none
	timed 'snap dump, peek, zstd' take --source peek
done

echo "$(nproc) CPUs ($(awk -F': ' '/model name/ {print $2; exit}' /proc/cpuinfo)), $(virsh version | awk '/hypervisor/ {print $3, $4}'), libvirt $(virsh --version), $(uname -sr), load $(cut -d' ' -f1 /proc/loadavg)"
echo
python3 - "$folder/results" <<'PY'
import collections, statistics, sys
rows = collections.OrderedDict()
for line in open(sys.argv[1]):
    label, ms, size, pause = line.rstrip("\n").split("\t")
    rows.setdefault(label, []).append((int(ms), int(size), float(pause or 0)))
base = statistics.median(r[0] for r in next(iter(rows.values())))
print("| | takes (ms) | against virsh | guest stands still (ms) | file (MiB) |")
print("|---|---:|---:|---:|---:|")
for label, r in rows.items():
    ms = statistics.median(x[0] for x in r)
    still = statistics.median(x[2] for x in r) if label.startswith("snap") else ms
    print(f"| {label} | {ms:.0f} | {ms / base:.2f} | {still:.0f} | {statistics.median(x[1] for x in r) / 2**20:.0f} |")
PY
