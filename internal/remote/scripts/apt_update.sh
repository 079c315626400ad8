# apt.update WAIT: renews the package lists. A repository that fails is an
# error: working from stale lists would install what was not meant.
deadline=$(($(date +%s) + wait))
while :; do
	if said=$(apt -o APT::Update::Error-Mode=any update 2>&1); then exit 0; fi
	case $said in
	*"Could not get lock"*) [ "$(date +%s)" -lt "$deadline" ] || break ;;
	*) break ;;
	esac
	sleep 2
done
printf '%s\n' "$said" >&2
exit 1
