# apt.exchange WAIT HOW UNIT [PACKAGE=VERSION...]: ends a unit's process, installs these
# packages, and starts the unit again, whatever happened in between: no program ever
# runs with files of two versions. HOW is "stop", or "kill" to leave what else runs in
# the unit alone. Nobody has to stay connected for it to come to its end.
how=$1 unit=$2
shift 2
if [ "$how" = kill ] && [ "$(systemctl show --no-pager -p KillMode --value -- "$unit")" != process ]; then
	echo "the unit $unit does not have KillMode=process: everything in it would be killed" >&2
	exit 65
fi
guard_on
# What is said goes into a file: dpkg ends with an error where nobody reads it.
said=$(mktemp /run/pgha-exchange.XXXXXX)
exec 3>&2 >"$said" 2>&1
trap '' HUP PIPE
# Of several files the last one by name counts, wherever they are.
no_restart=/run/systemd/system/$unit.d/zzzz-pgha-exchange.conf
finish() {
	status=$?
	set +e
	if [ -e "$no_restart" ]; then
		rm -f -- "$no_restart"
		rmdir -- "${no_restart%/*}" 2>/dev/null
	fi
	guard_off
	systemctl daemon-reload
	systemctl reset-failed -- "$unit" 2>/dev/null
	systemctl start --no-block -- "$unit"
	cat -- "$said" >&3 2>/dev/null
	rm -f -- "$said"
	exit "$status"
}
trap finish EXIT
if [ -n "$(dpkg --audit 2>/dev/null)" ]; then
	dpkg --configure -a --force-confdef --force-confold 9>&- || true
fi
if [ "$how" = kill ]; then
	# systemd would start it again by itself, in the middle of what follows.
	mkdir -p "${no_restart%/*}"
	printf '[Service]\nRestart=no\n' >"$no_restart"
	systemctl daemon-reload
	if [ "$(systemctl show --no-pager -p Restart --value -- "$unit")" != no ]; then
		echo "systemd would start the unit $unit again while packages are exchanged: a file in $unit.d counts over $no_restart; name it so that it does not" >&2
		exit 65
	fi
	systemctl kill --kill-who=main --signal=KILL -- "$unit"
	n=0
	while [ "$(systemctl show --no-pager -p ActiveState --value -- "$unit")" = active ] && [ "$n" -lt 50 ]; do
		n=$((n + 1))
		sleep 0.1
	done
else
	systemctl stop -- "$unit"
fi
if [ "$#" -gt 0 ]; then
	apt install --no-install-recommends --no-remove --allow-downgrades --allow-change-held-packages -- "$@"
fi
