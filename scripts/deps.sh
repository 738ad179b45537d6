#!/usr/bin/env bash
# Installs what the lab, the tests and the demo need on Debian 12 or later.
# Needs root; quick when all of it is there already.
set -euo pipefail

packages=(
	qemu-system-x86 qemu-utils libvirt-daemon-system libvirt-clients # the lab's guests
	make nasm binutils gcc g++ libc6-dev                             # its code, race tests
	{gcc,g++}-mingw-w64-{x86-64,i686}                                # the sample driver
	zstd age jq cron tmux python3 openssh-client      # what tests and the demo look at dumps with
	ca-certificates git
)
kernel=/var/lib/snap-lab/linux/vmlinuz # a guest that is not Windows

missing=()
for p in "${packages[@]}"; do
	[[ $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) == installed ]] || missing+=("$p")
done
if ((${#missing[@]} == 0)) && [[ -s $kernel ]]; then
	exit 0
fi
if ((EUID != 0)); then
	echo "deps.sh: needs root to install: ${missing[*]:-a Linux kernel for the lab}" >&2
	exit 1
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq

# Packages would start their services where an init system runs; the lab
# starts what it needs itself.
if ((${#missing[@]})); then
	apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

# The kernel is only unpacked: installing it would touch the boot loader.
if [[ ! -s $kernel ]]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	chmod 0755 "$work"
	image=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" {print $2; exit}')
	(cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$image")
	dpkg-deb -x "$work"/linux-image-*.deb "$work/root"
	install -D -m 0644 "$work"/root/boot/vmlinuz-* "$kernel"
fi
