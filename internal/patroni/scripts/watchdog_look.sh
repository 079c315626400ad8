# patroni.watchdog.look DEVICE UNIT: what could keep Patroni from using a
# watchdog, as lines "key=value": the kernel, whether softdog is "loaded",
# "available" or "missing", the kind of container, whether systemd uses the
# watchdog, and which process outside the unit has the device open.
set -u
echo "kernel=$(uname -r)"
if [ -d /sys/module/softdog ]; then
	echo softdog=loaded
elif command -v modprobe >/dev/null 2>&1 && modprobe -n -q softdog 2>/dev/null; then
	echo softdog=available
else
	echo softdog=missing
fi
echo "container=$(systemd-detect-virt -c 2>/dev/null)"
echo "systemd=$(systemctl show -p RuntimeWatchdogUSec --value 2>/dev/null)"
if [ -e "$1" ]; then
	for fd in /proc/[0-9]*/fd/*; do
		case $(readlink -- "$fd" 2>/dev/null) in
		/dev/watchdog*) ;;
		*) continue ;;
		esac
		pid=${fd#/proc/}
		pid=${pid%%/*}
		if ! grep -q "/$2\$" "/proc/$pid/cgroup" 2>/dev/null; then
			echo "held=$(cat "/proc/$pid/comm" 2>/dev/null) (pid $pid)"
		fi
	done
fi
exit 0
