# Sourced, and the first part of the package's postinst.

# snap_is_free OWN: whether nobody else has the name snap. It isn't free where snapd is
# installed, has left its folder or its packages' commands, or where a snap is found on
# the PATH or in a folder that usually is on it, which isn't the program OWN.
snap_is_free() {
	own=$(readlink -f "$1")
	if [ -e /snap/bin ] || [ -e /usr/lib/snapd ] || [ -e /var/lib/snapd ]; then
		return 1
	fi
	if dpkg-query -W -f '${db:Status-Status}\n' snapd 2>/dev/null | grep -q '^\(installed\|unpacked\|half\|triggers\)'; then
		return 1
	fi
	folders=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	while [ -n "$folders" ]; do
		folder=${folders%%:*}
		case $folders in
		*:*) folders=${folders#*:} ;;
		*) folders= ;;
		esac
		found=$folder/snap
		if [ -n "$folder" ] && { [ -e "$found" ] || [ -L "$found" ]; } && [ ! -d "$found" ] && [ "$(readlink -f "$found")" != "$own" ]; then
			return 1
		fi
	done
	return 0
}
