# etcd.restore.pack URL DIRECTORY CERTIFICATES CREDENTIALS TO: takes a snapshot
# of the etcd that restore_scratch.sh has started, to TO, for root only; then ends
# that etcd and deletes its data. Prints "sha256", "size", "revision" and "keys".
# CERTIFICATES is a folder, or "AUTHORITY:CERTIFICATE:KEY"; CREDENTIALS a file. Empty
# where the cluster has none. Certificates that somebody else has made may not be good
# for this host's loopback: nobody else listens there on the port of that etcd.
set -eu
umask 077
unit=pgha-etcd-scratch.service
export ETCDCTL_API=3 ETCDCTL_ENDPOINTS="$1" ETCDCTL_DIAL_TIMEOUT=10s ETCDCTL_COMMAND_TIMEOUT=30s
case $3 in
'') ;;
*:*:*)
	rest=${3#*:}
	export ETCDCTL_CACERT="${3%%:*}" ETCDCTL_CERT="${rest%:*}" ETCDCTL_KEY="${rest#*:}" ETCDCTL_INSECURE_SKIP_TLS_VERIFY=true
	;;
*)
	export ETCDCTL_CACERT="$3/ca.crt" ETCDCTL_CERT="$3/server.crt" ETCDCTL_KEY="$3/server.key"
	;;
esac
if [ "$4" ]; then
	# In the environment, which only root can see.
	user=pgha:$(sed -n 's/.*"pgha":"\([^"]*\)".*/\1/p' "$4")
	export ETCDCTL_USER="$user"
fi
fail() {
	echo "$1" >&2
	exit 1
}
tmp=$5.part
trap 'rm -f -- "$tmp" "$tmp.part"' EXIT
trap 'exit 130' HUP INT PIPE TERM
rm -f -- "$tmp"
etcdctl snapshot save "$tmp" >/dev/null
tool=etcdutl
command -v etcdutl >/dev/null || tool=etcdctl
status=$($tool snapshot status -w json "$tmp") || fail "the snapshot cannot be read"
number() { printf '%s\n' "$status" | sed -n "s/.*\"$1\":\([0-9][0-9]*\).*/\1/p"; }
sum=$(head -c -32 -- "$tmp" | sha256sum)
end=$(tail -c 32 -- "$tmp" | od -An -v -tx1 | tr -d ' \n')
[ "${sum%% *}" = "$end" ] || fail "the snapshot did not arrive whole"
sync -- "$tmp"
mv -fT -- "$tmp" "$5"
sync -- "$(dirname -- "$5")"
systemctl stop "$unit" 2>/dev/null || :
case $2 in /var/lib/etcd/*) rm -rf --one-file-system -- "$2" ;; esac
sum=$(sha256sum <"$5")
printf 'sha256=%s\nsize=%s\nrevision=%s\nkeys=%s\n' "${sum%% *}" "$(stat -c %s -- "$5")" "$(number revision)" "$(number totalKey)"
