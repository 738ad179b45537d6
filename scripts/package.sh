#!/usr/bin/env bash
# package.sh [FOLDER [ARCH...]]: a Debian package and a tarball for each architecture
# (amd64 and arm64), in FOLDER (bin/package). The same tree gives the same bytes: the
# time in all of them is that of the last entry of packaging/changelog.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/tools.sh

here=$PWD
folder=$(realpath -m "${1:-bin/package}")
shift || true
architectures=("$@")
[ $# != 0 ] || architectures=(amd64 arm64)

version=$(<VERSION)
if [[ ! $version =~ ^[0-9]+\.[0-9]+\.[0-9]+([-+~][0-9A-Za-z.+~-]+)?$ ]]; then
	echo "package.sh: VERSION says $version, which is no semantic version" >&2
	exit 1
fi
if [[ $(head -1 packaging/changelog) != "memsnap ($version) "* ]]; then
	echo "package.sh: the first entry of packaging/changelog is not of version $version" >&2
	exit 1
fi
SOURCE_DATE_EPOCH=$(date -d "$(sed -n '/^ -- .*>  /{s///p;q}' packaging/changelog)" +%s)
export SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C
umask 022

tool nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm v2.48.0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder"

build() { # ARCH FILE
	CGO_ENABLED=0 GOARCH=$1 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" -o "$2" ./cmd/snap
}

# notices: the licences of the libraries that are in the program.
notices() {
	printf '==== Go %s\n\n' "$(go env GOVERSION)"
	cat "$(go env GOROOT)/LICENSE"
	printf '\n'
	go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/snap | sort -u |
		while read -r module version dir; do
			mapfile -t files < <(find "$dir" -maxdepth 1 -type f \( -iname 'licen[sc]e*' -o -iname 'unlicense*' -o -iname 'copying*' -o -iname 'notice*' \) | sort)
			if [ ${#files[@]} = 0 ]; then
				echo "package.sh: $module $version says nowhere what its licence is" >&2
				return 1
			fi
			printf '==== %s %s\n\n' "$module" "$version"
			cat "${files[@]}"
			printf '\n'
		done
}

# dated FOLDER: what lies in it is of the time of the release.
dated() { find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +; }

host=$work/host
build "$(go env GOHOSTARCH)" "$host"
scripts/layout.sh "$host" "$work/beside"
notices >"$work/third-party"

# deb ARCH BINARY: the Debian package. What is called snap lies apart: it only becomes
# part of the system by the links of packaging/postinst.
deb() {
	local stage=$work/$1/stage
	local share=$stage/usr/share doc=$stage/usr/share/doc/memsnap apart=$stage/usr/share/memsnap/snap
	install -D -m 0755 "$2" "$stage/usr/bin/memsnap"
	install -d "$share/man/man1" "$apart/man1" "$doc"
	gzip -9n <packaging/changelog >"$doc/changelog.gz"
	gzip -9n <"$work/third-party" >"$doc/third-party.gz"
	install -m 0644 packaging/copyright "$doc/copyright"
	install -D -m 0644 packaging/lintian-overrides "$share/lintian/overrides/memsnap"
	for page in "$work"/beside/man1/memsnap*.1; do gzip -9n <"$page" >"$share/man/man1/${page##*/}.gz"; done
	for page in "$work"/beside/man1/snap*.1; do gzip -9n <"$page" >"$apart/man1/${page##*/}.gz"; done
	install -D -m 0644 "$work/beside/completions/memsnap.bash" "$share/bash-completion/completions/memsnap"
	install -D -m 0644 "$work/beside/completions/_memsnap" "$share/zsh/vendor-completions/_memsnap"
	install -D -m 0644 "$work/beside/completions/memsnap.fish" "$share/fish/vendor_completions.d/memsnap.fish"
	install -m 0644 "$work"/beside/completions/{snap.bash,_snap,snap.fish} "$apart/"
	{ printf '#!/bin/sh\nset -e\n\n' && cat packaging/snap-is-free.sh packaging/postinst; } >"$stage/postinst"
	cp packaging/prerm "$stage/prerm"
	dated "$stage"
	(cd "$stage" && ARCH=$1 VERSION=$version "$tools/nfpm" package --config "$here/packaging/nfpm.yaml" \
		--packager deb --target "$folder/memsnap_${version}_$1.deb")
}

# tarball ARCH BINARY: the program with all that is installed beside it, for hosts
# without dpkg; its install.sh does what make install does.
tarball() {
	local name=memsnap-$version-linux-$1
	local top=$work/$1/tar/$name
	install -D -m 0755 "$2" "$top/memsnap"
	cp -r "$work"/beside/* "$top/"
	install -m 0644 LICENSE README.md packaging/changelog "$work/third-party" packaging/snap-is-free.sh "$top/"
	install -m 0755 scripts/install.sh "$top/"
	dated "$top"
	tar -C "$work/$1/tar" --sort=name --owner=0 --group=0 --numeric-owner --format=ustar -cf - "$name" |
		gzip -9n >"$folder/$name.tar.gz"
}

for arch in "${architectures[@]}"; do
	build "$arch" "$work/memsnap-$arch"
	deb "$arch" "$work/memsnap-$arch"
	tarball "$arch" "$work/memsnap-$arch"
done
(cd "$folder" && ls -l memsnap*"$version"* && sha256sum memsnap*"$version"* >SHA256SUMS)
