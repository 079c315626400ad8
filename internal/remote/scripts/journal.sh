# journal UNIT LINES [CURSOR]: the unit's last lines; only those after the cursor, if there is one.
# With a cursor, journalctl's own -n would count from the first line after it.
set -eu
if [ "${3:-}" ]; then
	journalctl -q --no-pager -o cat -u "$1" --after-cursor="$3" | tail -n "$2"
else
	journalctl -q --no-pager -o cat -u "$1" -n "$2"
fi
