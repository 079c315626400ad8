# tree.purge PATH: deletes a directory with everything in it, on its own
# filesystem only. A link, a path close to the root or a mount point's
# content elsewhere is not followed. If the path is a mount point itself, its
# content goes and it stays.
set -eu
case $1 in
*/../* | */.. | */./* | */. | *//* | */)
	echo "refusing to delete $1: the path is not plain" >&2
	exit 1
	;;
esac
case $1 in
/*/*/*) ;;
/*/*)
	# Somebody's own place for a database, such as /data/pg, and nothing else.
	if [ -e "$1" ] && [ ! -e "$1/PG_VERSION" ] && [ -n "$(find "$1" -mindepth 1 -maxdepth 1 -print -quit)" ]; then
		echo "refusing to delete $1: it is close to the root and no database" >&2
		exit 1
	fi
	;;
*)
	echo "refusing to delete $1: it is too close to the root" >&2
	exit 1
	;;
esac
if [ -L "$1" ]; then
	echo "refusing to delete $1: it is a symbolic link" >&2
	exit 1
fi
[ -e "$1" ] || exit 0
# What tells a database goes last, so that one cut off can be gone on with.
find "$1" -xdev -mindepth 1 ! -path "$1/PG_VERSION" -delete
if mountpoint -q -- "$1"; then
	find "$1" -xdev -mindepth 1 -delete
else
	rm -rf --one-file-system -- "$1"
fi
sync -- "$(dirname -- "$1")"
