# patroni.blind replace|del ADDRESS...: has packets for these addresses go nowhere, or go
# their way again. Connections that there are end with the next packet.
set -eu
verb=$1
shift
for address in "$@"; do
  case $address in
  *:*) family=-6 bits=128 ;;
  *[!0-9.]*) continue ;; # a name: the addresses of its nodes are given as well
  *) family=-4 bits=32 ;;
  esac
  if [ "$verb" = del ]; then
    ip "$family" route del unreachable "$address/$bits" 2>/dev/null || :
  else
    ip "$family" route "$verb" unreachable "$address/$bits"
  fi
done
