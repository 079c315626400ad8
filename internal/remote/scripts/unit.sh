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
esac
systemctl "$verb" --no-ask-password -- "$@"
