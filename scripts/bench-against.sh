#!/usr/bin/env bash
# bench-against.sh REVISION [RUNS [WORD]]: this tree's snap beside that of a revision, on
# one lab guest of 2 GiB, 1.5 GiB of it filled, into memory (/dev/shm): first whether
# the dumps of the guest, suspended, are the same bytes, then medians of RUNS
# (default 9) runs in turns, of the rows that have WORD in them. Prints a table in Markdown. Root on Debian.
set -euo pipefail
cd "$(dirname "$0")/.."

revision=$(git rev-parse --short "${1:?usage: scripts/bench-against.sh REVISION [RUNS [WORD]]}")
runs=${2:-9}
word=${3:-}
name=bench
domain=snap-lab-$name
folder=$(mktemp -d /dev/shm/snap-bench-XXXXXX)
finish() {
	scripts/lab down --name "$name" >/dev/null 2>&1 || true
	git worktree remove --force "$folder/tree" 2>/dev/null || true
	rm -rf "$folder"
}
trap finish EXIT

# The version is in the header's comment: it must be the same in both.
build() { (cd "$1" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=bench' -o "$2" ./cmd/snap); }
git worktree add -q --detach "$folder/tree" "$revision"
build "$folder/tree" "$folder/before"
build . "$folder/now"
scripts/lab up --name "$name" --memory 2048 --cpus 2 --fill 1536 --mode idle >/dev/null
export LIBVIRT_DEFAULT_URI=qemu:///system

echo "$(nproc) CPUs ($(awk -F': ' '/model name/ {print $2; exit}' /proc/cpuinfo)), $(virsh version | awk '/hypervisor/ {print $3, $4}'), libvirt $(virsh --version), $(uname -sr), load $(cut -d' ' -f1 /proc/loadavg) before; $revision before, $(git describe --always --dirty) now"
echo
virsh suspend "$domain" >/dev/null
for format in full bitmap; do
	for side in before now; do
		"$folder/$side" dump "$domain" -q --format "$format" --compress none --manifest=false -o "$folder/$side.dmp"
	done
	cmp "$folder/before.dmp" "$folder/now.dmp"
	echo "The $format dump of the suspended guest is the same $(stat -c %s "$folder/now.dmp") bytes by both."
	rm "$folder"/*.dmp
done
virsh resume "$domain" >/dev/null
echo
python3 - "$folder" "$domain" "$runs" "$word" <<'PY'
import json, os, statistics, subprocess, sys

folder, domain, runs, word = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
dump = ["dump", domain, "-o", folder + "/out", "--json", "--manifest=false", "--force", "--max-pause", "10m"]
cases = [
    ("pause, copy first, zstd", dump + ["--mode", "pause"]),
    ("pause, --spool off, zstd", dump + ["--mode", "pause", "--spool", "off"]),
    ("live, zstd", dump + ["--mode", "live", "--max-changed", "100%"]),
    ("pause, copy first, none", dump + ["--mode", "pause", "--compress", "none"]),
    ("check", ["check", domain, "--json"]),
    ("verify", ["verify", folder + "/kept", "--json"]),
    ("expand", ["expand", folder + "/kept", "-o", folder + "/out", "--force"]),
]
subprocess.run([folder + "/now", "dump", domain, "-q", "--manifest=false", "-o", folder + "/kept"], check=True)

def once(side, args):
    r, w = os.pipe()
    pid = os.posix_spawn(folder + "/" + side, [side] + args, os.environ, file_actions=[
        (os.POSIX_SPAWN_DUP2, w, 1), (os.POSIX_SPAWN_CLOSE, r), (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)])
    start = __import__("time").monotonic()
    os.close(w)
    text = os.fdopen(r, "rb").read()
    _, status, u = os.wait4(pid, 0)
    took = __import__("time").monotonic() - start
    if status:
        sys.exit(f"{side} {args}: status {status}")
    pause = json.loads(text).get("pause_ms", 0) if args[0] == "dump" else 0
    return took, u.ru_utime + u.ru_stime, u.ru_maxrss / 1024, pause

print("| | takes (s): before | now | ratio | processor time: ratio | largest in memory: ratio | stands still (ms): before | now |")
print("|---|---:|---:|---:|---:|---:|---:|---:|")
for label, args in cases:
    if word not in label:
        continue
    got = {"before": [], "now": []}
    for i in range(runs):
        for side in ("before", "now") if i % 2 else ("now", "before"):
            got[side].append(once(side, args))
    m = {s: [statistics.median(x[k] for x in got[s]) for k in range(4)] for s in got}
    b, n = m["before"], m["now"]
    print(f"| {label} | {b[0]:.2f} | {n[0]:.2f} | {n[0]/b[0]:.3f} | {n[1]/b[1]:.3f} | {n[2]/b[2]:.3f} | {b[3]:.0f} | {n[3]:.0f} |", flush=True)
PY
