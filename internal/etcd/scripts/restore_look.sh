# etcd.restore.look PATH: says what a snapshot is, and changes nothing: "size",
# "sha256", with etcd's tools there "revision" and "keys", and as "version" the
# version of the cluster that it is of, as far as that can be seen.
set -eu
fail() {
	echo "$1" >&2
	exit 1
}
[ -e "$1" ] || fail "$1 does not exist"
if [ ! -f "$1" ] || [ -L "$1" ]; then fail "$1 is not a file"; fi
# A snapshot ends with the digest of what is before it.
sum=$(head -c -32 -- "$1" | sha256sum)
end=$(tail -c 32 -- "$1" | od -An -v -tx1 | tr -d ' \n')
[ "${sum%% *}" = "$end" ] || fail "$1 is not a whole snapshot: its digest does not match"
sum=$(sha256sum <"$1")
printf 'size=%s\nsha256=%s\n' "$(stat -c %s -- "$1")" "${sum%% *}"
tool=etcdutl
command -v etcdutl >/dev/null || tool=etcdctl
if command -v "$tool" >/dev/null; then
	status=$(ETCDCTL_API=3 $tool snapshot status -w json "$1") || fail "$1 cannot be read as a snapshot"
	number() { printf '%s\n' "$status" | sed -n "s/.*\"$1\":\([0-9][0-9]*\).*/\1/p"; }
	printf 'revision=%s\nkeys=%s\n' "$(number revision)" "$(number totalKey)"
fi
# Where it is in the file, it follows its name. Pages that are free now may have
# older ones.
version=$(grep -aoE '(clusterVersion|storageVersion)[0-9]+\.[0-9]+\.[0-9]+' -- "$1" | sed 's/^[a-zA-Z]*//' | sort -V | tail -n 1) || :
printf 'version=%s\n' "$version"
