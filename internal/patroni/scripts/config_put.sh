# patroni.config PATH OWNER GROUP MODE SHA256: has Patroni itself check the
# configuration on standard input, as the user it will run as, and only then
# puts it in place, whole. What the check says goes to standard error.
set -eu
umask 077
dir=$(dirname -- "$1")
mkdir -p -- "$dir"
chmod 0755 "$dir"
# PIPE, too: of a message that nobody reads any more this shell would die
# without cleaning up.
tmp=
trap '[ -z "$tmp" ] || rm -f -- "$tmp" "$tmp.log"' EXIT
trap 'exit 130' HUP INT PIPE TERM
# What a power cut left here.
find "$dir/" -maxdepth 1 -type f -name '.pgha.??????????.yml*' -mmin +60 -delete
tmp=$(mktemp -- "$dir/.pgha.XXXXXXXXXX.yml")
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
known='^$'
# Versions without that option take a running node's own ports for a fault.
[ "$ignore" ] || known="$known|Port [0-9]+ is already in use"
# A member of etcd that is down is no fault of the file, as long as another is up.
members=$(sed -n '/^etcd3:/,/^[a-z]*:$/{/^ *- /p}' "$tmp" | wc -l)
if ! runuser -u postgres -- patroni --validate-config $ignore "$tmp" >"$tmp.log" 2>&1 && {
	[ "$(grep -cE '^etcd3\.hosts.* is not reachable' "$tmp.log")" -ge "$members" ] || known="$known|^etcd3\.hosts.* is not reachable"
	[ ! -s "$tmp.log" ] || grep -qvE "$known" "$tmp.log"
}; then
	sed -e "s#$tmp#$1#g" "$tmp.log" >&2
	rm -f -- "$tmp.log"
	exit 65
fi
rm -f -- "$tmp.log"
sync -- "$tmp"
mv -fT -- "$tmp" "$1"
trap - EXIT
sync -- "$dir"
