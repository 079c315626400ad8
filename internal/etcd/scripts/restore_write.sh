# etcd.restore.write PATH OFFSET SIZE SHA256, a part of a file on standard input:
# adds it to PATH.part, which has to be OFFSET long. With the part that makes it
# SIZE long it gets its name, if its digest is right. Only root can read it.
set -eu
umask 077
fail() {
	echo "$1" >&2
	exit 1
}
part=$1.part
if [ "$2" = 0 ]; then
	free=$(($(df -Pk -- "$(dirname -- "$1")" | awk 'NR == 2 { print $4 }') * 1024))
	[ "$free" -ge "$(($3 + 67108864))" ] || fail "No space left on device: there are $((free / 1048576)) MiB free"
	: >"$part"
fi
have=$(stat -c %s -- "$part")
[ "$have" = "$2" ] || fail "$part has $have bytes, and $2 were expected"
cat >>"$part"
have=$(stat -c %s -- "$part")
[ "$have" -ge "$3" ] || exit 0
sum=$(sha256sum <"$part")
[ "${sum%% *}" = "$4" ] || {
	rm -f -- "$part"
	fail "the file did not arrive whole: sha256 ${sum%% *}, expected $4"
}
sync -- "$part"
mv -fT -- "$part" "$1"
sync -- "$(dirname -- "$1")"
