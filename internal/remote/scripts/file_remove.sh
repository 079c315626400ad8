# file.remove PATH...: files and links, never directories.
set -eu
for path in "$@"; do
	if [ -d "$path" ] && [ ! -L "$path" ]; then
		echo "$path is a directory" >&2
		exit 1
	fi
	if [ -e "$path" ] || [ -L "$path" ]; then
		rm -f -- "$path"
		sync -- "$(dirname -- "$path")"
	fi
done
