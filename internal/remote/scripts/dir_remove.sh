# dir.remove PATH...: empty directories; one that is not empty is left, and so is its absence.
set -eu
for path in "$@"; do
	if [ -d "$path" ] && [ ! -L "$path" ] && [ -z "$(ls -A -- "$path")" ]; then rmdir -- "$path"; fi
done
