# patroni.files PATH...: what is in files that hold passwords, a line each, in
# base64; an empty line for one that is not there.
set -eu
for path in "$@"; do
	if [ -f "$path" ]; then base64 -w 0 -- "$path"; fi
	echo
done
