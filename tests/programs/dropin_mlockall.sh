#!/bin/sh
# mlockall() by a user who may lock 8 MiB, the kernel's default: as without Holdfast.
# shellcheck source=tests/programs/dropin_lib.sh
. "$(dirname "$0")/dropin_lib.sh"
skip_without setpriv prlimit
[ "$(id -u)" = 0 ] || {
	echo "skipped: needs root, to become somebody else"
	exit 77
}
# Where other users can read it, wherever the build directory is.
chmod 755 "$work"
cp -L "$build/libholdfast-malloc.so" "$build/libholdfast.so.0" "$build/tests/dropin_calls" "$work"
preload=$work/libholdfast-malloc.so
same prlimit --memlock=8388608:8388608 setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all \
	"$work/dropin_calls" locked
grep -q locked "$work/ours.out" || fail "not even without Holdfast"
echo "as without Holdfast"
