# etcd.restore.member SNAPSHOT SHA256 DATA UID NAME CLUSTER PEER TOKEN KEY: puts a
# member's data in place as a snapshot has it, as a new cluster's. What was in its
# place is kept beside it, out of etcd's reach. The new data says in itself which
# cluster it is of: with it there, nothing is done. KEY is made of the snapshot,
# the same on all hosts, and nobody can tell it who has not read that.
set -eu
umask 077
fail() {
	echo "$1" >&2
	exit 1
}
mark=$3/member/pgha-restored
if [ -f "$mark" ] && [ "$(cat "$mark")" = "$4" ]; then exit 0; fi
case $(systemctl show --no-pager -p ActiveState --value etcd.service) in
active | activating | reloading | deactivating) fail "etcd.service runs: it has to be stopped" ;;
esac
sum=$(sha256sum <"$1")
[ "${sum%% *}" = "$2" ] || fail "$1 is not the file that was agreed on: its sha256 is ${sum%% *}, expected $2"
umask 027
{ printf 'pgha.token.'; cat "$1"; } | sha256sum | head -c 64 >"$9.part"
chown -- root:etcd "$9.part"
chmod 0640 -- "$9.part"
mv -fT -- "$9.part" "$9"
umask 077
[ -d "$3" ] || fail "$3 does not exist"
new=$3/restored-$4
rm -rf --one-file-system -- "$new"
tool=etcdutl
command -v etcdutl >/dev/null || tool=etcdctl
ETCDCTL_API=3 $tool snapshot restore "$1" --data-dir "$new" --name "$5" --initial-cluster "$6" --initial-advertise-peer-urls "$7" --initial-cluster-token "$8" >&2
printf '%s' "$4" >"$new/member/pgha-restored"
chown -R -- etcd:etcd "$new"
sync -f -- "$new"
before=$3/before-$4
if [ -e "$3/member" ]; then
	[ ! -e "$before" ] || fail "$before exists already"
	mv -T -- "$3/member" "$before"
fi
mv -T -- "$new/member" "$3/member"
rm -rf --one-file-system -- "$new"
sync -f -- "$3"
