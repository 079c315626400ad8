# journal.end: the cursor of the journal's last line, nothing if it has none.
set -eu
journalctl -q --no-pager -o cat -n 1 --show-cursor | sed -n 's/^-- cursor: //p' | tail -n 1
