# etcd.restore.scratch SNAPSHOT SHA256 DIRECTORY ENVIRONMENT SCHEME: starts an
# etcd of one member from a snapshot, or with an empty SNAPSHOT from nothing, in
# DIRECTORY, with a member's own settings but where it listens: on ports of this
# host's loopback that nobody knows of. Prints the client's port. What an earlier
# run left there goes first. It ends by itself after an hour.
set -eu
umask 077
unit=pgha-etcd-scratch.service
fail() {
	echo "$1" >&2
	exit 1
}
systemctl stop "$unit" 2>/dev/null || :
systemctl reset-failed "$unit" 2>/dev/null || :
case $3 in /var/lib/etcd/*) ;; *) fail "$3 is no place for this" ;; esac
rm -rf --one-file-system -- "$3"
size=0
if [ "$1" ]; then
	sum=$(sha256sum <"$1")
	[ "${sum%% *}" = "$2" ] || fail "$1 is not the file that was looked at: its sha256 is ${sum%% *}, expected $2"
	size=$(stat -c %s -- "$1")
fi
# The data, its log in pieces of 64 MiB, the new snapshot, and the member's own.
need=$((4 * size + 402653184))
free=$(($(df -Pk -- /var/lib/etcd | awk 'NR == 2 { print $4 }') * 1024))
[ "$free" -ge "$need" ] || fail "No space left on device: /var/lib/etcd has $((free / 1048576)) MiB free of the $((need / 1048576)) MiB that this needs"
mkdir -- "$3"
port=$(ss -Htln | awk '{ sub(/.*:/, "", $4); used[$4] = 1 } END { for (p = 23790; p < 23990; p += 2) if (!used[p] && !used[p + 1]) { print p; exit } }')
[ "$port" ] || fail "there is no free port"
peer=$5://127.0.0.1:$((port + 1))
if [ "$1" ]; then
	tool=etcdutl
	command -v etcdutl >/dev/null || tool=etcdctl
	ETCDCTL_API=3 $tool snapshot restore "$1" --data-dir "$3/data" --name scratch --initial-cluster "scratch=$peer" --initial-advertise-peer-urls "$peer" --initial-cluster-token scratch >&2
fi
# A setting may not be in the environment and an argument at once.
{
	grep -vE '^ETCD_(NAME|DATA_DIR|LISTEN_[A-Z_]*|ADVERTISE_[A-Z_]*|INITIAL_[A-Z_]*)=' <"$4"
	printf 'ETCD_NAME=scratch\nETCD_DATA_DIR=%s/data\nETCD_INITIAL_CLUSTER_TOKEN=scratch\n' "$3"
	printf 'ETCD_LISTEN_CLIENT_URLS=%s\nETCD_ADVERTISE_CLIENT_URLS=%s\n' "$5://127.0.0.1:$port" "$5://127.0.0.1:$port"
	printf 'ETCD_LISTEN_PEER_URLS=%s\nETCD_INITIAL_ADVERTISE_PEER_URLS=%s\nETCD_INITIAL_CLUSTER=scratch=%s\n' "$peer" "$peer" "$peer"
} >"$3/env"
chown -R -- etcd:etcd "$3"
systemd-run --quiet --collect --unit="$unit" -p Type=notify -p User=etcd -p Group=etcd -p UMask=0077 -p TimeoutStartSec=90 -p RuntimeMaxSec=1h -p EnvironmentFile="$3/env" /usr/bin/etcd >&2 || {
	journalctl --no-pager -o cat -n 60 -u "$unit" | grep -v '"level":"info"' | tail -n 8 >&2
	exit 1
}
printf 'port=%s\n' "$port"
