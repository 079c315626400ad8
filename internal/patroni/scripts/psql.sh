# Finds psql itself: what Debian has in the PATH is a program in Perl that first looks for
# clusters of its own, and takes three times as long.
psql=psql
for found in /usr/lib/postgresql/*/bin/psql; do
	if [ -x "$found" ]; then psql=$found; fi
done
