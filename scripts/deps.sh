#!/usr/bin/env bash
# Installs what the lab, the tests and the demo need on Debian 12 or later.
# Needs root; quick when all of it is there already.
set -euo pipefail

packages=(
	qemu-system-x86 qemu-utils ovmf libvirt-daemon-system libvirt-clients # the lab's guests
	make nasm binutils gcc g++ libc6-dev                             # its code, race tests
	{gcc,g++}-mingw-w64-{x86-64,i686}                                # the sample driver
	zstd age jq cron tmux python3 openssh-client unzip p7zip-full      # what tests and the demo look at dumps with
	mount                                             # umount, of what snap mount shows
	strace                                            # make bench counts system calls with it
	lintian man-db bash-completion zsh fish           # the package is looked at and tried with them
	ca-certificates git
)
kernel=/var/lib/snap-lab/linux/vmlinuz # a guest that is not Windows
newer=/var/lib/snap-lab/qemu-newer      # a QEMU for mode snapshot, of 9.0 or later

missing=()
for p in "${packages[@]}"; do
	[[ $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) == installed ]] || missing+=("$p")
done
if ((${#missing[@]} == 0)) && [[ -s $kernel && -x $newer/qemu-system-x86_64 ]]; then
	exit 0
fi
if ((EUID != 0)); then
	echo "deps.sh: needs root to install: ${missing[*]:-a Linux kernel and a newer QEMU for the lab}" >&2
	exit 1
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq

# Packages would start their services where an init system runs; the lab
# starts what it needs itself.
if ((${#missing[@]})); then
	apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 0755 "$work"

# The kernel is only unpacked: installing it would touch the boot loader.
if [[ ! -s $kernel ]]; then
	image=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" {print $2; exit}')
	(cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$image")
	dpkg-deb -x "$work"/linux-image-*.deb "$work/root"
	install -D -m 0644 "$work"/root/boot/vmlinuz-* "$kernel"
fi

# The newer QEMU is Debian's own build for this release, unpacked beside the
# installed one, which stays what it is.
unpack_newer_qemu() {
	local codename mirror p
	local modules=$newer/usr/lib/x86_64-linux-gnu/qemu
	codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $codename" 'Component: main' | head -1)
	mkdir -p "$work/lists/partial" "$work/debs"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $codename-backports main" >"$work/backports.list"
	local apt=(apt-get -qq -o APT::Sandbox::User=root -o Dir::Etc::SourceList="$work/backports.list"
		-o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$work/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)
	"${apt[@]}" update
	# All with modules: QEMU would load the installed QEMU's where its own are missing.
	(cd "$work/debs" && "${apt[@]}" download qemu-system-{x86,common,data,gui,modules-opengl,modules-spice} qemu-block-extra)
	rm -rf "$newer"
	for p in "$work"/debs/*.deb; do
		dpkg-deb -x "$p" "$newer"
	done
	install -m 0755 /dev/stdin "$newer/qemu-system-x86_64" <<-EOF
		#!/bin/sh
		export QEMU_MODULE_DIR=$modules
		exec $newer/usr/bin/qemu-system-x86_64 -L $newer/usr/share/qemu -L /usr/share/seabios "\$@"
	EOF
}

if [[ ! -x $newer/qemu-system-x86_64 ]]; then
	if version=$(dpkg-query -W -f '${Version}' qemu-system-x86) && dpkg --compare-versions "$version" ge 1:9.0; then
		install -D -m 0755 /dev/stdin "$newer/qemu-system-x86_64" <<<'#!/bin/sh
exec /usr/bin/qemu-system-x86_64 "$@"'
	else
		unpack_newer_qemu
	fi
fi
