# shellcheck shell=bash
# What the other scripts share. They are run from anywhere and work in the root
# of the source tree.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CHECKPOINT_DISABLE=1

say() { printf '\n==> %s\n' "$*"; }

die() {
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# install_debian PACKAGE... installs packages, if it may.
install_debian() {
	command -v apt-get >/dev/null || die "please install what Debian calls $*"
	[ "$(id -u)" = 0 ] || die "please run: apt-get install $*"
	say "Installing $*"
	# Of two that renew the package lists at once the second one fails.
	local n
	for n in {1..60}; do
		apt-get -q update && break
		[ "$n" -lt 60 ] && sleep 5
	done
	DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 --no-install-recommends install "$@"
}

# need COMMAND PACKAGE sees to it that a command is there.
need() {
	if ! command -v "$1" >/dev/null; then
		install_debian "$2"
	fi
}

# need_go finds Go. One that is older than go.mod asks for downloads what is
# needed by itself, from 1.21 on.
need_go() {
	if ! command -v go >/dev/null && [ -x /usr/local/go/bin/go ]; then
		PATH=$PATH:/usr/local/go/bin
	fi
	if ! command -v go >/dev/null && command -v apt-cache >/dev/null; then
		local candidate
		candidate=$(apt-cache policy golang-go | sed -n 's/^  Candidate: //p')
		if dpkg --compare-versions "${candidate:-0}" ge 2:1.21; then
			install_debian golang-go
		fi
	fi
	command -v go >/dev/null ||
		die "Go is missing. Install Go $(sed -n 's/^go //p' go.mod) or later as https://go.dev/doc/install says, and run this again."
	go version >/dev/null || die "this Go cannot work with go.mod, see above"
}

# find_cli sets CLI to $CLI, terraform or tofu, the first that is there.
find_cli() {
	local name
	for name in ${CLI:-terraform tofu}; do
		if command -v "$name" >/dev/null; then
			CLI=$name
			return
		fi
	done
	die "neither Terraform nor OpenTofu is installed. Get one, version 1.11 or later, as
  https://developer.hashicorp.com/terraform/install or https://opentofu.org/docs/intro/install/
says (both have a Debian package), put it into the PATH, and run this again.
Another name or place: CLI=/path/to/terraform"
}

# mirror DIR builds the provider into a folder from which the CLI installs it:
# that takes no registry and no network.
mirror() {
	local address version=0.0.1 dir
	# The address depends on the CLI: Terraform and OpenTofu have different
	# registries.
	address=$("$CLI" -chdir=examples/quickstart providers | sed -n 's/.*provider\[\([^]]*\/pgha\/pgha\)\].*/\1/p' | head -n 1)
	[ -n "$address" ] || die "$CLI does not say what it calls the provider"
	dir=$1/$address/$version/$(go env GOOS)_$(go env GOARCH)
	mkdir -p "$dir"
	go build -o "$dir/terraform-provider-pgha_v$version" .
}
