# Runs as root, in place of the wrapper, for as long as its input lasts, and
# starts one script after the other. Each gets a shell, a time limit, an input and
# outputs of its own, as if it had a session to itself. Parameters: the user, the
# wrapper, and the first request, which is the word in the script's marks, how
# many bytes it gets, the user, the limit in seconds, the name of the operation,
# the script, its arguments.
nonce=$0 wrapper=$2
shift 2
# A shell's idle limit would end this one between two scripts.
unset TMOUT
tell() { printf "%s %s\n" "$word" "$*" >&2; }
need() { command -v "$1" >/dev/null 2>&1 || { tell absent "$1"; exit 127; }; }
# Copies an output, and tells when nobody is left who could write to it: a child
# that a script has left behind must not be heard in what comes after.
copy() {
	cat
	printf "\n%s free\n" "$word"
}
run() {
	word=$1 size=$2 user=$3 seconds=$4
	shift 4
	need timeout
	set -- timeout -k 5 "$seconds" /bin/sh -c "$wrapper" "$word" "$user" run "$@"
	if [ "$user" != root ]; then
		need runuser
		set -- runuser -u "$user" -- "$@"
	fi
	# The copies are not waited for. If one does not end, it is the other side
	# that gives this session up, and then the input ends. What the script has
	# not read of its input is nobody's.
	{
		{
			head -c "$size" | {
				"$@"
				printf "\n%s status %d\n" "$word" "$?" >&2
				cat >/dev/null
			}
		} 2>&1 >&8 4>&- 5>&- 8>&- | {
			exec 7<&0
			copy <&7 >&5 4>&- 5>&- 7<&- 8>&- &
		}
	} 8>&1 | {
		exec 7<&0
		copy <&7 >&4 4>&- 5>&- 7<&- &
	}
}
exec 4>&1 5>&2
as=${SUDO_USER:-${DOAS_USER:-}}
while :; do
	run "$@"
	IFS= read -r line || exit 0
	# Something else than a request is the rest of one, or noise: nothing that
	# comes now can be trusted.
	case $line in
	"$nonce "*) ;;
	*) exit 125 ;;
	esac
	line=$(head -c "${line#* }" && echo .) || exit 125
	eval "set -- ${line%.}"
	# sudo has logged the first script only.
	[ -z "$as" ] || logger -t pgha -p authpriv.notice -- "$as : USER=$3 ; OPERATION=$5" </dev/null >/dev/null 2>&1 || :
done
