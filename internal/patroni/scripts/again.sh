# patroni.again UNIT: starts Patroni anew while PostgreSQL goes on running. Asked to
# end it would stop PostgreSQL, so it is killed; the unit kills nobody else
# (KillMode=process), and Patroni takes up the server that it finds.
set -eu
[ "$(systemctl show --no-pager -p KillMode --value -- "$1")" = process ] || {
	echo "the unit $1 does not have KillMode=process: PostgreSQL would be killed as well" >&2
	exit 65
}
systemctl kill --kill-who=main --signal=KILL -- "$1"
n=0
while [ "$(systemctl show --no-pager -p ActiveState --value -- "$1")" = active ] && [ "$n" -lt 50 ]; do
	n=$((n + 1))
	sleep 0.1
done
systemctl reset-failed -- "$1" 2>/dev/null || true
systemctl start --no-block -- "$1"
