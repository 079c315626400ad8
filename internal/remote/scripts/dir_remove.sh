# dir.remove PATH: an empty directory; one that is not empty is left, and so is its absence.
set -eu
if [ -d "$1" ] && [ ! -L "$1" ] && [ -z "$(ls -A -- "$1")" ]; then rmdir -- "$1"; fi
