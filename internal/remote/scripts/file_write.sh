# file.write PATH OWNER GROUP MODE SHA256, content on standard input.
# The file appears under its name whole, with its owner and mode, or not at all.
set -eu
umask 022
dir=$(dirname -- "$1")
if [ -d "$1" ]; then
	echo "$1 is a directory" >&2
	exit 1
fi
mkdir -p -- "$dir"
# PIPE, too: of a message that nobody reads any more this shell would die
# without cleaning up.
tmp=
trap '[ -z "$tmp" ] || rm -f -- "$tmp"' EXIT
trap 'exit 130' HUP INT PIPE TERM
# What a power cut left here.
find "$dir/" -maxdepth 1 -type f -name '.pgha.??????????' -mmin +60 -delete
tmp=$(mktemp -- "$dir/.pgha.XXXXXXXXXX")
cat >"$tmp"
sum=$(sha256sum <"$tmp")
if [ "${sum%% *}" != "$5" ]; then
	echo "the content did not arrive whole: sha256 ${sum%% *}, expected $5" >&2
	exit 1
fi
chown -- "$2:$3" "$tmp"
chmod -- "$4" "$tmp"
sync -- "$tmp"
mv -fT -- "$tmp" "$1"
trap - EXIT
sync -- "$dir"
