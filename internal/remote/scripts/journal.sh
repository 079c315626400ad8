# journal UNIT LINES [INVOCATION]: the unit's last lines, of its last start only if named.
set -eu
if [ "${3:-}" ]; then
	journalctl --no-pager -o cat -n "$2" "_SYSTEMD_INVOCATION_ID=$3" + "INVOCATION_ID=$3"
else
	journalctl --no-pager -o cat -n "$2" -u "$1"
fi
