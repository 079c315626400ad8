# Shared by the apt scripts: one of ours at a time on this host, patience for
# somebody else's run, and no service started or restarted by dpkg.
set -eu
export DEBIAN_FRONTEND=noninteractive APT_LISTCHANGES_FRONTEND=none NEEDRESTART_SUSPEND=1 UCF_FORCE_CONFFOLD=1
exec 9>/run/lock/pgha-apt.lock
if ! flock -w "$1" 9; then
	echo "another pgha run on this host has held the package lock for $1 s" >&2
	exit 75
fi
guard=/usr/sbin/policy-rc.d
mine='# pgha: keeps dpkg from starting or restarting services while packages are installed'
guard_off() {
	if [ -f "$guard" ] && grep -qF "$mine" "$guard"; then rm -f "$guard"; fi
	if [ -e "$guard.pgha-saved" ]; then mv -fT "$guard.pgha-saved" "$guard"; fi
}
guard_on() {
	guard_off
	if [ -e "$guard" ]; then mv -T "$guard" "$guard.pgha-saved"; fi
	trap guard_off EXIT
	trap 'exit 130' HUP INT TERM
	printf '#!/bin/sh\n%s\nexit 101\n' "$mine" >"$guard"
	chmod 0755 "$guard"
}
apt() {
	apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout="$wait" \
		-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@" 9>&-
}
wait=$1
shift
