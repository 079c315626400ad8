# apt.hold WAIT hold|unhold PACKAGE...
verb=$1
shift
apt-mark "$verb" "$@" >/dev/null
