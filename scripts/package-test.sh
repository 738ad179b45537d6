#!/usr/bin/env bash
# package-test.sh: builds the packages twice, from two folders, and compares; has lintian
# look at the Debian package; installs and removes it, alone and where somebody else has
# the name snap; and does the same with make install. Root.
#
# dpkg works on an overlay of this system, in a mount namespace of its own: what it writes
# is in memory, and gone at the end. So what an installation leaves is what is in there.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ${1:-} != overlay ]]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	chmod 0755 "$work"

	scripts/package.sh "$work/first"
	mkdir "$work/elsewhere"
	git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -C "$work/elsewhere" -xf -
	mkdir -p "$work/elsewhere/bin" && cp -r bin/tools "$work/elsewhere/bin/"
	(umask 077 && TZ=Pacific/Auckland "$work/elsewhere/scripts/package.sh" "$work/second") >/dev/null
	diff -r "$work/first" "$work/second"
	echo "packages: the same bytes when they are built again in another folder"

	for deb in "$work"/first/*.deb; do
		lintian --allow-root --fail-on error "$deb"
	done
	echo "packages: lintian finds no errors"

	unshare --mount --propagation private "$0" overlay "$work/first"
	exit 0
fi

packages=$2
deb=$(echo "$packages"/memsnap_*_"$(dpkg --print-architecture)".deb)
layers=$(mktemp -d)
trap 'umount "$layers/root/proc" "$layers/root/dev" "$layers/root" "$layers" 2>/dev/null; rmdir "$layers"' EXIT
mount -t tmpfs tmpfs "$layers"

die() {
	echo "package-test.sh: $*" >&2
	exit 1
}

# fresh: the system as it is, without a snap, if it has one.
fresh() {
	umount "$layers/root/proc" "$layers/root/dev" "$layers/root" 2>/dev/null || true
	rm -rf "$layers"/{upper,work}
	mkdir -p "$layers"/{upper,work,root}
	mount -t overlay overlay -o "lowerdir=/,upperdir=$layers/upper,workdir=$layers/work" "$layers/root"
	mount -t proc proc "$layers/root/proc"
	mount --bind /dev "$layers/root/dev"
	cp "$deb" "$layers/root/tmp/memsnap.deb"
	inside '
		rm -f /usr/local/bin/snap /usr/local/bin/memsnap
		rm -rf /snap
		for f in /etc/dpkg/dpkg.cfg.d/*; do
			if grep -qs path-exclude "$f"; then rm "$f"; fi # manual pages are installed
		done
	'
}

inside() {
	chroot "$layers/root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 \
		/bin/bash -euo pipefail -c "$1"
}

# changed: what differs from the system below, but for dpkg's own accounts and caches.
changed() {
	(cd "$layers/upper" && find . \( -path ./var/lib/dpkg/info -o -path ./var/lib/dpkg/updates -o -path ./var/lib/dpkg/triggers \
		-o -path ./var/log -o -path ./var/cache/man -o -path ./tmp \) -prune -o -print | grep -v '^./var/lib/dpkg/\(status\|available\|lock\|diversions\|statoverride\)' |
		while read -r path; do
			if [[ -d $path && -d /$path ]]; then continue; fi
			if [[ -f $path && ! -L $path ]]; then sha256sum "$path"; else ls -ld "$path"; fi
		done)
	find "$layers/upper/var/lib/dpkg/info" -name 'memsnap*' 2>/dev/null || true
}

# works NAME: the program, its manual pages and its completions in three shells.
works() {
	inside "
		$1 version | grep '^$1 [0-9]' >/dev/null
		$1 --help | grep '^  $1 ' >/dev/null
		man -w $1 >/dev/null
		man $1-dump | grep -e '--max-pause' >/dev/null
		COMP_WORDS=($1 verif) COMP_CWORD=1 COMP_LINE='$1 verif' COMP_POINT=\${#COMP_LINE}
		set +eu
		source /usr/share/bash-completion/bash_completion
		_completion_loader $1
		__start_$1 2>/dev/null # compopt is for readline
		[[ \${COMPREPLY[*]} == verify* ]] || { echo \"bash completes $1 verif to \${COMPREPLY[*]}\"; exit 1; }
		set -eu
		[[ \$(zsh -fc 'autoload -U compinit && compinit -u -D && echo \$_comps[$1]') == _$1 ]]
		[[ \$(fish -c 'complete -C \"$1 verif\"') == verify* ]]
	" || die "$1 doesn't work as installed"
}

# 1. Alone: it has both names, and leaves nothing.
fresh
changed >"$layers/before"
inside 'dpkg -i /tmp/memsnap.deb' >/dev/null
works memsnap
works snap
said=$(man --warnings -l "$layers"/root/usr/share/man/man1/memsnap*.1.gz 2>&1 >/dev/null)
[[ -z $said ]] || die "manual pages: $said"
inside 'dpkg -i /tmp/memsnap.deb && snap version' >/dev/null
inside 'dpkg -r memsnap' >/dev/null
diff "$layers/before" <(changed) || die "this is left when the package is removed"
echo "packages: installed, with manual pages and completions, as memsnap and snap; removed without leftovers"

# 2. Somebody else's snap stays theirs.
fresh
inside 'install -D -m 0755 /dev/stdin /usr/local/bin/snap <<<"#!/bin/sh"'
changed >"$layers/before"
inside 'dpkg -i /tmp/memsnap.deb' | grep 'another snap' >/dev/null || die "nobody was told that there is another snap"
inside 'memsnap version' >/dev/null
inside '[[ $(command -v snap) == /usr/local/bin/snap && ! -e /usr/bin/snap && ! -e /usr/share/bash-completion/completions/snap ]]' ||
	die "where there is another snap, it has the name too"
inside 'dpkg -r memsnap' >/dev/null
diff "$layers/before" <(changed) || die "this is left, or was changed, where there is another snap"
echo "packages: where there is another snap, it is memsnap only"

# 3. snapd comes later, with the files that it really has under these names.
fresh
inside '
	snapd=/tmp/snapd
	mkdir -p $snapd/DEBIAN $snapd/usr/{bin,lib/snapd,share/bash-completion/completions,share/zsh/vendor-completions}
	echo "#!/bin/sh" >$snapd/usr/bin/snap
	chmod 0755 $snapd/usr/bin/snap
	for f in lib/snapd/info share/bash-completion/completions/snap share/zsh/vendor-completions/_snap; do echo "of snapd" >$snapd/usr/$f; done
	printf "%s\n" "Package: snapd" "Version: 2" "Architecture: all" "Maintainer: nobody <nobody@example.invalid>" "Description: another snap" >$snapd/DEBIAN/control
	(cd $snapd && find usr -type f | xargs md5sum >DEBIAN/md5sums)
	dpkg-deb --build $snapd /tmp/snapd.deb
	dpkg -i /tmp/memsnap.deb
	dpkg -i /tmp/snapd.deb
	[[ ! -L /usr/bin/snap && -z $(dpkg -V snapd) ]]
	dpkg -i /tmp/memsnap.deb
	[[ ! -L /usr/bin/snap && -z $(dpkg -V snapd) ]]
	[[ ! -e /etc/alternatives/snap && ! -e /usr/share/man/man1/snap-dump.1.gz ]]
' >/dev/null || die "snapd that comes later isn't left as it is"
inside 'memsnap version' >/dev/null
inside 'dpkg -r memsnap && [[ -z $(dpkg -V snapd) ]] && dpkg -r snapd' >/dev/null || die "snapd lost something when memsnap went"
[[ -z $(changed | grep snap) ]] || die "this is left: $(changed | grep snap)"
echo "packages: a snapd that comes later keeps what is its own"

# 4. The tarball's installer, which is that of make install.
fresh
tarball=$(echo "$packages"/memsnap-*-linux-"$(dpkg --print-architecture)".tar.gz)
mkdir "$layers/root/tmp/tarball"
tar -C "$layers/root/tmp/tarball" --strip-components=1 -xzf "$tarball"
files() { inside "find ${1:-/usr/local} ! -type d | sort"; }
without=$(files)
inside 'PREFIX=/usr/local /tmp/tarball/install.sh install /tmp/tarball' >/dev/null
inside 'memsnap version && snap version | grep "^snap " && man -w memsnap-dump snap-dump' >/dev/null || die "the tarball's installer doesn't install what works"
inside 'PREFIX=/usr/local /tmp/tarball/install.sh uninstall /tmp/tarball'
[[ $(files) == "$without" ]] || die "the tarball's installer leaves: $(diff <(echo "$without") <(files))"
inside 'DESTDIR=/tmp/stage PREFIX=/usr /tmp/tarball/install.sh install /tmp/tarball' >/dev/null
inside '[[ -x /tmp/stage/usr/bin/memsnap && ! -e /tmp/stage/usr/bin/snap ]]' || die "below DESTDIR it is called snap"
inside 'install -m 0755 /dev/stdin /usr/local/bin/snap <<<"#!/bin/sh" && for what in install uninstall; do
	/tmp/tarball/install.sh $what /tmp/tarball; [[ $(cat /usr/local/bin/snap) == "#!/bin/sh" ]]; done' >/dev/null ||
	die "make install changes another snap"
echo "packages: the tarball's installer installs it and removes it"
