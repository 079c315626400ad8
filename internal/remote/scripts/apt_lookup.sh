# apt.lookup PACKAGE...: which versions the repositories have now, in lines
# PACKAGE=VERSION. Lists are read into a folder of its own.
set -eu
dir=$(mktemp -d)
trap 'rm -rf -- "$dir"' EXIT
trap 'exit 130' HUP INT PIPE TERM
chmod 0755 "$dir"
mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
set -- -q -o "Dir::State::Lists=$dir/lists" -o "Dir::Cache=$dir/cache" -- "$@"
options="$1 $2 $3 $4 $5"
# shellcheck disable=SC2086
apt-get $options update >&2
shift 6
for name; do
	# shellcheck disable=SC2086
	apt-cache $options madison -- "$name" 2>/dev/null | while IFS='| ' read -r _ version _; do
		printf '%s=%s\n' "$name" "$version"
	done
done
