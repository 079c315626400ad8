# etcd.snapshots SERVICE FALLBACK: lists the snapshots in the folder that the
# service's file names, or else in FALLBACK: "directory=PATH", and for each
# "snapshot=SIZE NAME", the oldest first.
set -eu
dir=
if [ -f "$1" ]; then dir=$(sed -n 's/^ReadWritePaths=//p' "$1"); fi
dir=${dir:-$2}
printf 'directory=%s\n' "$dir"
for path in "$dir"/????????T??????Z-*.db; do
	if [ -f "$path" ]; then printf 'snapshot=%s %s\n' "$(stat -c %s -- "$path")" "${path##*/}"; fi
done
