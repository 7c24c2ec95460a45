#!/bin/sh
# A setuid program ignores the caller's environment: the budget and its misspelling, and the preloading itself.
# shellcheck source=tests/programs/dropin_lib.sh
. "$(dirname "$0")/dropin_lib.sh"
skip_without setpriv
[ "$(id -u)" = 0 ] || {
	echo "skipped: needs root"
	exit 77
}
# Where other users can read it, wherever the build directory is.
chmod 755 "$work"
cp -L "$build/libholdfast-malloc.so" "$build/libholdfast.so.0" "$work"
preload=$work/libholdfast-malloc.so
cp "$(command -v cat)" "$work/cat"
chown daemon "$work/cat"
as_nobody() {
	env LD_PRELOAD="$preload" HOLDFAST=nonsense=1 HOLDFAST_LEDGER=nonsense setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
}
# setpriv itself is preloaded, and must refuse to start: proof that the variable would count.
as_nobody true 2>"$work/err" && fail "nonsense was accepted"
grep -q 'unknown knob in HOLDFAST: nonsense' "$work/err" || fail "no message"
# A shell without Holdfast sets it for the setuid program only.
run_as_nobody() {
	setpriv --reuid=65534 --regid=65534 --clear-groups env LD_PRELOAD="$preload" HOLDFAST=nonsense=1 HOLDFAST_LEDGER=nonsense "$@"
}
chmod 755 "$work/cat"
run_as_nobody "$work/cat" /proc/self/status >"$work/out" 2>&1 && fail "the plain copy took no notice of the environment"
chmod 4755 "$work/cat"
run_as_nobody "$work/cat" /proc/self/status >"$work/out" 2>"$work/err" || {
	cat "$work/err"
	mount | grep ' /tmp ' | grep -q nosuid && {
		echo "skipped: /tmp is nosuid"
		exit 77
	}
	fail "the setuid copy did not run"
}
grep -q '^Uid:.65534.1.' "$work/out" || fail "it was not setuid: $(grep Uid "$work/out")"
[ -s "$work/err" ] && fail "it said: $(cat "$work/err")"
echo "the environment is ignored"
