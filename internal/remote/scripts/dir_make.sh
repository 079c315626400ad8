# dir.make PATH OWNER GROUP MODE: an existing directory only has its owner and mode set.
set -eu
umask 022
mkdir -p -- "$(dirname -- "$1")"
[ -d "$1" ] || mkdir -m 0700 -- "$1"
chown -- "$2:$3" "$1"
chmod -- "$4" "$1"
sync -- "$1"
