# sysctl.apply KEY=VALUE...: sets values in the running kernel. Those that
# this kernel (or a container) does not let be set are named, one a line.
set -u
for setting in "$@"; do
	sysctl -q -w -- "$setting" >/dev/null 2>&1 || printf '%s\n' "${setting%%=*}"
done
