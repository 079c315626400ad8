# etcd.keep FROM TO: keeps a copy of a program. It appears whole or not at all.
set -eu
(umask 022 && mkdir -p -- "$(dirname -- "$2")")
cp -p -- "$1" "$2.new"
sync -- "$2.new"
mv -fT -- "$2.new" "$2"
