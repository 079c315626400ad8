#!/usr/bin/env bash
# Checks code, scripts, examples and documentation. All checks run, whatever the
# one before found.

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

need_go
find_cli
need shellcheck shellcheck
failed=()

check() {
	local title=$1
	shift
	say "$title"
	"$@" || failed+=("$title")
}

formatted() {
	local files
	files=$(gofmt -l .)
	[ -z "$files" ] || {
		printf 'gofmt -w %s\n' "$files"
		return 1
	}
}

shells() {
	local files
	mapfile -t files < <(git ls-files -co --exclude-standard 'scripts/*.sh' bench/yardstick.sh .ci/run)
	shellcheck -x "${files[@]}" &&
		# Scripts for the hosts: they are joined before they run, so that
		# variables may be set in one file and used in another, and cd or the
		# unquoted are never meant for people's input.
		git ls-files -co --exclude-standard 'internal/*.sh' 'lab/*.sh' |
		xargs shellcheck -S warning -s sh -e SC2034,SC2154
}

# The generated files must be those that generating makes.
documentation() {
	local tmp
	tmp=$(mktemp -d -p .)
	scripts/generate.sh "$(basename "$tmp")" >"$tmp.log" 2>&1 || cat "$tmp.log"
	if ! diff -r docs "$tmp"; then
		echo "docs/ is not what the schema, templates/ and examples/ make: run make generate"
		rm -rf "$tmp" "$tmp.log"
		return 1
	fi
	rm -rf "$tmp" "$tmp.log"
}

# The database of vulnerabilities is on the internet.
vulnerabilities() {
	local out
	if out=$(bin/govulncheck ./... 2>&1); then
		printf '%s\n' "$out"
	elif grep -qE 'fetching vulnerabilities|dial tcp|no such host|connect: ' <<<"$out"; then
		echo "SKIPPED: the database of vulnerabilities cannot be reached from here"
	else
		printf '%s\n' "$out"
		return 1
	fi
}

check "gofmt" formatted
check "go vet" go vet ./...
check "golangci-lint" bin/golangci-lint run ./...
check "shellcheck" shells
check "$CLI fmt" "$CLI" fmt -check -diff -recursive .
check "documentation is up to date" documentation
check "govulncheck" vulnerabilities

if [ ${#failed[@]} -gt 0 ]; then
	say "Failed: $(printf '%s; ' "${failed[@]}")"
	exit 1
fi
say "Nothing to complain about"
