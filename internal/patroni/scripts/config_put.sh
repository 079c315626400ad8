# patroni.config PATH OWNER GROUP MODE SHA256: has Patroni itself check the
# configuration on standard input, as the user it will run as, and only then
# puts it in place, whole. What the check says goes to standard error.
set -eu
umask 077
dir=$(dirname -- "$1")
mkdir -p -- "$dir"
chmod 0755 "$dir"
tmp=$(mktemp -- "$dir/.pgha.XXXXXXXXXX.yml")
trap 'rm -f -- "$tmp"' EXIT
trap 'exit 130' HUP INT TERM
cat >"$tmp"
sum=$(sha256sum <"$tmp")
if [ "${sum%% *}" != "$5" ]; then
	echo "the content did not arrive whole: sha256 ${sum%% *}, expected $5" >&2
	exit 1
fi
chown -- "$2:$3" "$tmp"
chmod -- "$4" "$tmp"
ignore=
if patroni --help 2>&1 | grep -q -- --ignore-listen-port; then ignore=--ignore-listen-port; fi
cd /
if ! runuser -u postgres -- patroni --validate-config $ignore "$tmp" >"$tmp.log" 2>&1; then
	sed -e "s#$tmp#$1#g" "$tmp.log" >&2
	rm -f -- "$tmp.log"
	exit 65
fi
rm -f -- "$tmp.log"
sync -- "$tmp"
mv -fT -- "$tmp" "$1"
trap - EXIT
sync -- "$dir"
