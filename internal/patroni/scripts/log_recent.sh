# postgres.log UNIT DATADIR SECONDS LINES: what the unit and its PostgreSQL have
# logged lately. Where PostgreSQL writes log files of its own, the journal has
# only Patroni's part.
set -eu
journalctl -q --no-pager -o cat -u "$1" --since "-${3}s" -n "$4"
list=$2/current_logfiles
if [ -f "$list" ]; then
	while read -r kind file; do
		case $kind:$file in
		stderr:/*) ;;
		stderr:*) file=$2/$file ;;
		*) continue ;;
		esac
		if [ -n "$(find "$file" -newermt "-$3 seconds" 2>/dev/null)" ]; then
			tail -n "$4" -- "$file"
		fi
	done <"$list"
fi
