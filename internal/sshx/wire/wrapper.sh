# Runs as the wanted user, in a process group that ends with the time limit. It
# frames what the script prints and tells how the script ended. Parameters: the
# user, "run" or "stream", the name of the operation, the script, its arguments.
nonce=$0 user=$1 mode=$2 op=$3 script=$4
shift 4
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin${PATH:+:$PATH}
LC_ALL=C.UTF-8
export PATH LC_ALL
if [ -n "$user" ]; then
	eval "HOME=~$user"
	USER=$user LOGNAME=$user
	export HOME USER LOGNAME
fi
cd /
umask 022
printf "%s begin\n" "$nonce" >&2
printf "%s begin\n" "$nonce"
# Who is not told to go has been given up, and must not run later.
IFS= read -r go || exit 125
[ "$go" = "$nonce" ] || exit 125
unset go
# Not ignored, which the script would inherit: this shell has to outlive the
# script, or nobody would be left to tell that it was the time limit.
ended=
trap "ended=terminated" TERM
/bin/sh -c "$script" "$op" "$@"
code=$?
printf "\n%s exit %d %s\n" "$nonce" "$code" "$ended" >&2
[ "$mode" = stream ] || printf "\n%s end\n" "$nonce"
exit "$code"
