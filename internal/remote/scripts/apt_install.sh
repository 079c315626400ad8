# apt.install WAIT PACKAGE[=VERSION]...: installs exactly these, and removes
# nothing to make room for them. dpkg is left in order first if an earlier run
# was cut off.
guard_on
if [ -n "$(dpkg --audit 2>/dev/null)" ]; then
	dpkg --configure -a --force-confdef --force-confold 9>&- >&2
fi
apt install --no-install-recommends --no-remove --allow-downgrades --allow-change-held-packages -- "$@"
