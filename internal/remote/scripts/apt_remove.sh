# apt.remove WAIT PACKAGE...: removes packages and keeps their configuration
# and data. Nothing else is removed with them: dpkg refuses if something
# depends on them.
guard_on
installed=
for package in "$@"; do
	case $(dpkg-query -W -f '${db:Status-Abbrev}' -- "$package" 2>/dev/null) in
	?i*) installed="$installed $package" ;;
	esac
done
[ "$installed" ] || exit 0
# shellcheck disable=SC2086 # a package's name has no spaces
apt-mark unhold $installed >/dev/null
# shellcheck disable=SC2086
dpkg --remove $installed 9>&- >&2
