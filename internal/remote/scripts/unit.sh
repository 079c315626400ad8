# unit VERB NAME...: systemctl, told to say why when it fails.
set -eu
verb=$1
shift
case $verb in
daemon-reload) exec systemctl daemon-reload ;;
enable)
	# Not the links in /etc/rc?.d as well, of which those of a script that has a unit of the
	# same name mean nothing to systemd: making them takes seconds. Disabling does make them:
	# as long as they say "start", invoke-rc.d in a package's scripts starts a disabled unit.
	SYSTEMCTL_SKIP_SYSV=1
	export SYSTEMCTL_SKIP_SYSV
	;;
start-no-block) exec systemctl start --no-block -- "$@" ;;
reset-failed)
	systemctl reset-failed -- "$@" 2>/dev/null || :
	exit 0
	;;
drop)
	for name in "$@"; do
		case $(systemctl show --no-pager -p ActiveState --value -- "$name") in
		active | activating | reloading | deactivating) systemctl stop --no-ask-password -- "$name" ;;
		esac
		systemctl reset-failed -- "$name" 2>/dev/null || :
	done
	exit 0
	;;
esac
systemctl "$verb" --no-ask-password -- "$@"
