# unit VERB NAME...: systemctl, told to say why when it fails.
set -eu
verb=$1
shift
case $verb in
daemon-reload) exec systemctl daemon-reload ;;
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
