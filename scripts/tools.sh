# Sourced: installs the tools that look at the code, each at an exact version, in
# bin/tools. What is there already is used as it is.
tools=$PWD/bin/tools

# tool NAME MODULE VERSION: install NAME unless that version is there.
tool() {
	local stamp=$tools/.$1-$3
	[ -e "$stamp" ] && [ -x "$tools/$1" ] && return
	echo "installing $1 $3"
	mkdir -p "$tools"
	GOBIN=$tools go install "$2@$3"
	touch "$stamp"
}

# servers: what tests speak to, beside what deps.sh installs.
servers() {
	tool versitygw github.com/versity/versitygw/cmd/versitygw v1.8.0
}

# formatted: fail, and say which, if files aren't as gofumpt writes them.
formatted() {
	tool gofumpt mvdan.cc/gofumpt v0.12.0
	local unformatted
	unformatted=$("$tools/gofumpt" -l .)
	if [ -n "$unformatted" ]; then
		printf 'not formatted with gofumpt (bin/tools/gofumpt -w FILE does it):\n%s\n' "$unformatted" >&2
		return 1
	fi
}
