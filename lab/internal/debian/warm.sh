#!/bin/sh
# Runs inside a copy of the bare image and makes it the warm one: packages
# installed, but nothing started, enabled or created, so that a host looks as
# if only the downloading and unpacking had been done.
set -eu
# The arguments are packages with their versions.

enabled() { systemctl list-unit-files --state=enabled --no-legend --no-pager | awk '{ print $1 }' | sort; }
enabled > /run/enabled-before

printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
mkdir -p /etc/postgresql-common/createcluster.d
echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/pgha-lab.conf

export DEBIAN_FRONTEND=noninteractive
apt-get -q -o Acquire::Languages=none update
apt-get -y -q --no-install-recommends -o DPkg::Options::=--force-unsafe-io install "$@"

rm /usr/sbin/policy-rc.d /etc/postgresql-common/createcluster.d/pgha-lab.conf
enabled | comm -13 /run/enabled-before - | while read -r unit; do systemctl -q disable "$unit"; done

apt-get clean
rm -rf /var/cache/apt/*.bin /var/log/*.log /var/log/apt/* /var/cache/ldconfig/aux-cache /tmp/* /run/enabled-before

# What the image promises. A test that finds a cluster it did not make, or a
# member's data, would draw the wrong conclusions.
left=$(pg_lsclusters --no-header; ls -A /var/lib/etcd)
if [ -n "$left" ]; then
	echo "the packages created data: $left" >&2
	exit 1
fi
