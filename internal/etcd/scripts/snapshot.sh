# etcd.snapshot DIRECTORY KEEP MEMBER WHEN URL CERTIFICATES CREDENTIALS: takes a
# snapshot of the cluster from the member at URL, verifies it, and then removes
# this member's oldest ones until KEEP are left; 0 removes none. WHEN is "leader",
# which does nothing unless this member leads, or "always". CERTIFICATES is a
# folder, or "AUTHORITY:CERTIFICATE:KEY" of which the last two may be empty;
# CREDENTIALS is a file. Empty where the cluster has none.
# A unit runs this as etcd's account, an apply as root.
set -eu
umask 077
dir=$1 keep=$2 member=$3
export ETCDCTL_API=3 ETCDCTL_ENDPOINTS="$5" ETCDCTL_DIAL_TIMEOUT=10s ETCDCTL_COMMAND_TIMEOUT=30s
case $6 in
'') ;;
*:*:*)
	rest=${6#*:}
	export ETCDCTL_CACERT="${6%%:*}"
	if [ "${rest%:*}" ]; then export ETCDCTL_CERT="${rest%:*}" ETCDCTL_KEY="${rest#*:}"; fi
	;;
*)
	export ETCDCTL_CACERT="$6/ca.crt" ETCDCTL_CERT="$6/server.crt" ETCDCTL_KEY="$6/server.key"
	;;
esac
if [ "$7" ]; then
	# In the environment, which only this account and root can see.
	user=pgha:$(sed -n 's/.*"pgha":"\([^"]*\)".*/\1/p' "$7")
	export ETCDCTL_USER="$user"
fi
fail() {
	echo "$1" >&2
	exit 1
}
number() { printf '%s\n' "$status" | sed -n "s/.*\"$1\":\([0-9][0-9]*\).*/\1/p"; }
status=$(etcdctl endpoint status -w json)
leader=$(number leader)
[ "${leader:-0}" != 0 ] || fail "this member knows no leader: there may be no quorum"
if [ "$4" = leader ] && [ "$leader" != "$(number member_id)" ]; then
	echo "another member leads: nothing to do here"
	exit 0
fi
[ -d "$dir" ] || fail "$dir does not exist"
: >>"$dir/.lock"
if [ "$(id -u)" = 0 ]; then chown --reference="$dir" -- "$dir/.lock"; fi
exec 9<"$dir/.lock"
flock -w 900 9 || fail "another snapshot has been going on for 15 minutes"
# What a power cut left here.
rm -f -- "$dir"/.????????T??????Z-"$member".db*
# Etcd's data may be on the same file system: it must never be filled by this.
need=$(($(number dbSize) + 67108864))
free=$(($(df -Pk -- "$dir" | awk 'NR == 2 { print $4 }') * 1024))
[ "$free" -ge "$need" ] || fail "No space left on device: $dir has $((free / 1048576)) MiB free of the $((need / 1048576)) MiB that a snapshot needs, 64 MiB to spare included"
name=$(date -u +%Y%m%dT%H%M%SZ)-$member.db
tmp=$dir/.$name
trap 'rm -f -- "$tmp" "$tmp.part"' EXIT
trap 'exit 130' HUP INT PIPE TERM
etcdctl snapshot save "$tmp" >/dev/null
# etcdutl came with 3.5.
tool=etcdutl
command -v etcdutl >/dev/null || tool=etcdctl
info=$($tool snapshot status -w json "$tmp") || fail "the snapshot cannot be read: it was not kept"
status=$info
[ "$(number totalKey)" ] && [ "$(number revision)" ] || fail "the snapshot has no revision: it was not kept"
# A snapshot ends with the digest of what is before it.
sum=$(head -c -32 -- "$tmp" | sha256sum)
end=$(tail -c 32 -- "$tmp" | od -An -v -tx1 | tr -d ' \n')
[ "${sum%% *}" = "$end" ] || fail "the snapshot did not arrive whole: it was not kept"
if [ "$(id -u)" = 0 ]; then chown --reference="$dir" -- "$tmp"; fi
sync -- "$tmp"
mv -fT -- "$tmp" "$dir/$name"
sync -- "$dir"
printf 'path=%s\nrevision=%s\nkeys=%s\nsize=%s\n' "$dir/$name" "$(number revision)" "$(number totalKey)" "$(stat -c %s -- "$dir/$name")"
if [ "$keep" -gt 0 ]; then
	set -- "$dir"/????????T??????Z-"$member".db
	while [ $# -gt "$keep" ]; do
		rm -f -- "$1"
		shift
	done
fi
