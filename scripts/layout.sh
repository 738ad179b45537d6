#!/usr/bin/env bash
# layout.sh BINARY FOLDER: lays out in FOLDER what is installed beside the
# program: manual pages and completions of the names memsnap and snap, which BINARY, a
# build for this machine, makes itself.
#
# FOLDER gets man1/*.1 and completions/{NAME.bash,_NAME,NAME.fish}.
set -euo pipefail
binary=$1 folder=$2

names=$(mktemp -d)
trap 'rm -rf "$names"' EXIT
mkdir -p "$folder"/{man1,completions}
for name in memsnap snap; do
	cp "$binary" "$names/$name"
	"$names/$name" man "$folder/man1"
	"$names/$name" completion bash >"$folder/completions/$name.bash"
	"$names/$name" completion zsh >"$folder/completions/_$name"
	"$names/$name" completion fish >"$folder/completions/$name.fish"
done
