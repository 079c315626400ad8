# etcd.reach.plain ADDRESS PORT: asks a member for its status by http, through the
# gateway that Patroni uses. It ends with 1 if it does not answer.
set -eu
answer=$(timeout 10 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "POST /v3/maintenance/status HTTP/1.0\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}" "$0" >&3 && cat <&3' "$1" "$2" 2>&1) || true
case $answer in
*'"leader"'*) exit 0 ;;
esac
printf 'it does not answer by http at %s, port %s: %s\n' "$1" "$2" "$(printf '%s' "$answer" | tail -n 1)" >&2
exit 1
