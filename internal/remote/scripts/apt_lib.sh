# Shared by the apt scripts: one of ours at a time on this host, patience for
# somebody else's run, and no service started or restarted by dpkg.
set -eu
export DEBIAN_FRONTEND=noninteractive APT_LISTCHANGES_FRONTEND=none NEEDRESTART_SUSPEND=1 UCF_FORCE_CONFFOLD=1
exec 9>/run/lock/pgha-apt.lock
if ! flock -w "$1" 9; then
	echo "held by another apply of pgha on this host" >&2
	exit 75
fi
# Who has one of the locks of dpkg and apt. They are not flock's, so that a shell
# cannot try them; the kernel names their owners.
holder() {
	for lock in /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock /var/cache/apt/archives/lock; do
		inode=$(stat -c %i -- "$lock" 2>/dev/null) || continue
		for pid in $(awk -v inode="$inode" '$2 == "POSIX" && $6 ~ ":" inode "$" { print $5 }' /proc/locks 2>/dev/null); do
			# Numbers of files are unique in one filesystem only.
			[ "$(find "/proc/$pid/fd" -lname "$lock" -print -quit 2>/dev/null)" ] || continue
			printf '%s (process %s: %s)\n' "$(cat "/proc/$pid/comm")" "$pid" "$(tr '\0' ' ' <"/proc/$pid/cmdline" | cut -c 1-120)"
			return
		done
	done
}
deadline=$(($(date +%s) + $1))
while who=$(holder) && [ "$who" ]; do
	if [ "$(date +%s)" -ge "$deadline" ]; then
		echo "held by $who" >&2
		exit 75
	fi
	sleep 1
done
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
	# PIPE, too: of a message that nobody reads any more this shell would die
	# and leave the guard behind.
	trap 'exit 130' HUP INT PIPE TERM
	printf '#!/bin/sh\n%s\nexit 101\n' "$mine" >"$guard"
	chmod 0755 "$guard"
}
# What is wrong with dependencies it says on standard output.
apt() {
	apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout="$wait" \
		-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@" >&2 9>&-
}
wait=$1
shift
