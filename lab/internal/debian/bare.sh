#!/bin/sh
# Runs inside a fresh Debian and makes it the lab's bare image: what every host
# has in common. What is a host's own (name, address, keys) comes later.
set -eu
release=$1

# Only the lab's pool: hosts have no way out.
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
echo "deb [trusted=yes] file:/pool/$release ./" > /etc/apt/sources.list
rm -f /etc/apt/apt.conf.d/99mmdebstrap /etc/dpkg/dpkg.cfg.d/99mmdebstrap

useradd --create-home --shell /bin/bash admin
echo 'admin ALL=(ALL:ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin
chmod 440 /etc/sudoers.d/admin

# As Debian's cloud images have it. Without it databases come out in ASCII.
echo 'LANG=C.UTF-8' > /etc/default/locale

# The builder's resolver does not answer in the lab, and every lookup would
# wait for it. Without one, lookups fail at once.
rm -f /etc/resolv.conf
: > /etc/resolv.conf

# Every host gets its own: two hosts with one identity are a fault that no
# test would understand.
rm -f /etc/ssh/ssh_host_*
: > /etc/machine-id
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed

# What would run at its own time, in the middle of a test.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer man-db.timer \
	systemd-networkd-wait-online.service; do
	ln -sf /dev/null "/etc/systemd/system/$unit"
done
systemctl -q enable systemd-networkd.service

apt-get clean
rm -rf /var/lib/apt/lists/* /var/log/journal/* /var/log/*.log /var/log/apt/* /var/cache/ldconfig/aux-cache /tmp/*
