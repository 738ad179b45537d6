#!/bin/sh
# install.sh install|uninstall FOLDER: the program of FOLDER, with its manual pages and
# completions, below $DESTDIR$PREFIX (/usr/local). FOLDER is an unpacked tarball, or what
# make install laid out.
#
# The program is called memsnap. It is called snap too, by links, if nobody else is: with
# SNAP=yes or SNAP=no that isn't looked at. With DESTDIR, which is a part of some system
# that isn't known here, it is no.
set -eu
what=$1
from=$2
prefix=${DESTDIR:-}${PREFIX:-/usr/local}
bin=$prefix/bin
man=$prefix/share/man/man1
bash=$prefix/share/bash-completion/completions
zsh=$prefix/share/zsh/site-functions
fish=$prefix/share/fish/vendor_completions.d

. "$from/snap-is-free.sh"

# as_snap: whether the program may be called snap.
as_snap() {
	case ${SNAP:-auto} in
	yes) return 0 ;;
	no) return 1 ;;
	esac
	[ -z "${DESTDIR:-}" ] && snap_is_free "$bin/memsnap"
}

install_as() { # NAME
	for page in "$from/man1/$1".1 "$from/man1/$1"-*.1; do
		install -m 0644 "$page" "$man/"
	done
	install -m 0644 "$from/completions/$1.bash" "$bash/$1"
	install -m 0644 "$from/completions/_$1" "$zsh/_$1"
	install -m 0644 "$from/completions/$1.fish" "$fish/$1.fish"
}

uninstall_as() { # NAME
	for page in "$from/man1/$1".1 "$from/man1/$1"-*.1; do
		rm -f "$man/${page##*/}"
	done
	rm -f "$bin/$1" "$bash/$1" "$zsh/_$1" "$fish/$1.fish"
}

case $what in
install)
	install -d "$bin" "$man" "$bash" "$zsh" "$fish"
	install -m 0755 "$from/memsnap" "$bin/memsnap"
	install_as memsnap
	if as_snap; then
		ln -sf memsnap "$bin/snap"
		install_as snap
		echo "installed $bin/memsnap, which is also called snap"
	else
		echo "installed $bin/memsnap; it isn't also called snap (SNAP=yes does that, whoever else has the name)"
	fi
	;;
uninstall)
	# A snap that isn't a link of ours is somebody else's, with all that is beside it.
	if [ "$(readlink "$bin/snap" || true)" = memsnap ]; then
		uninstall_as snap
	fi
	uninstall_as memsnap
	;;
*)
	echo "install.sh: $what is neither install nor uninstall" >&2
	exit 2
	;;
esac
