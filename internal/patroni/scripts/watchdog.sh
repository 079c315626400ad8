# patroni.watchdog DEVICE USER [MODULE]: makes the watchdog be there and belong to
# a user, now. After a boot modules-load.d and udev do it.
set -eu
if [ -n "${3:-}" ] && [ ! -e "$1" ]; then
	modprobe -- "$3"
fi
if command -v udevadm >/dev/null 2>&1; then
	udevadm control --reload 2>/dev/null || true
	udevadm settle --timeout=5 2>/dev/null || true
fi
if [ ! -c "$1" ]; then
	echo "there is no device $1" >&2
	exit 1
fi
chown -- "$2:$2" "$1"
chmod -- 0600 "$1"
