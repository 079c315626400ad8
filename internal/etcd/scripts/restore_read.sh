# etcd.restore.read PATH OFFSET LENGTH: prints a part of a file, in base64.
set -eu
dd if="$1" bs=1M iflag=skip_bytes,count_bytes,fullblock skip="$2" count="$3" status=none | base64 -w0
