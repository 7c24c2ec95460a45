#!/bin/sh
# Exit statuses, as env and timeout have them; bad input is named, with its cure.
. "$(dirname "$0")/command_lib.sh"

run run -- true
status_is 0 true
run run -- sh -c 'exit 7'
status_is 7 "the program's own"
run run -- sh -c 'exit 125'
status_is 125 "the program's own 125"
for signal in 1 2 9 15; do
	run run -- sh -c "kill -$signal \$\$"
	status_is $((128 + signal)) "ended by signal $signal"
done
run run -- "$work/no-such-program"
status_is 127 "no such program"
says "$work/no-such-program"
run run -- no-such-program-in-path
status_is 127 "no such program in PATH"
echo >"$work/not-executable"
run run -- "$work/not-executable"
status_is 126 "not executable"
run run -- /
status_is 126 "a directory"
run run -- sh -c 'echo "$@"' sh --budget -- --stats
[ "$(cat "$work/out")" = "--budget -- --stats" ] || fail "the program's options are not its own"
run run true
status_is 0 "without --"

# refused PATTERN ARGUMENT...
refused() {
	pattern=$1
	shift
	run "$@"
	status_is 125 "$*"
	says "$pattern"
	[ ! -s "$work/out" ] || fail "$*: the program was run"
}
refused 'no program to run' run
refused 'no program to run' run --budget 64M
refused '64X is not a size (say 64M' run --budget 64X -- echo
refused 'is not a size' run --budget '' -- echo
refused 'is not a size' run --budget 0 -- echo
refused 'too large' run --budget 200% -- echo
refused 'too large' run --budget 99999999T -- echo
refused 'too small.*at least 1M' run --budget 100K -- echo
refused 'wait does not exist in this release (leave it out, or say fail)' run --on-exhausted wait -- echo
refused 'kill does not exist in this release' run --on-exhausted kill -- echo
refused 'unknown (say fail)' run --on-exhausted nonsense -- echo
refused 'locked does not exist in this release (leave it out, or say accounted)' run --commit locked -- echo
refused 'unknown (say accounted)' run --commit nonsense -- echo
refused 'a name is 1 to 31' run --ledger 'a b' -- echo
refused 'a name is 1 to 31' run --ledger aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa -- echo
refused 'nonsense' run --nonsense -- echo
refused 'no command .nonsense. (run, ps, stat' nonsense
refused "is not a process id (holdfast ps lists them)" stat abc
refused "is not a process id" stat 0
refused 'one process id' stat 1 2
refused 'does not exist' stat 2147483646
refused "unexpected argument 'x'" ps x
run run --on-exhausted fail --commit accounted -- true
status_is 0 "what there is may be said"
run --version
grep -q '^holdfast [0-9]' "$work/out" || fail "no version"
for command in "" run ps stat; do
	# shellcheck disable=SC2086
	run $command --help
	status_is 0 "$command --help"
	grep -q Usage: "$work/out" || fail "$command --help says nothing"
done

# A missing drop-in.
mkdir "$work/alone"
cp "$holdfast" "$work/alone/holdfast"
status=0
"$work/alone/holdfast" run -- true >"$work/out" 2>"$work/err" || status=$?
status_is 125 "no drop-in"
says "libholdfast-malloc.so is neither in $work/alone nor in .*install it again"
# A path that LD_PRELOAD cannot hold.
mkdir "$work/with space"
cp "$holdfast" "$build/libholdfast-malloc.so" "$work/with space"
status=0
"$work/with space/holdfast" run -- true >"$work/out" 2>"$work/err" || status=$?
status_is 125 "a space in the path"
says 'a space or a colon'
# Installed: libraries beside the directory of commands.
mkdir -p "$work/usr/bin" "$work/usr/lib"
cp "$holdfast" "$work/usr/bin"
cp "$build/libholdfast-malloc.so" "$work/usr/lib"
cp -P "$build"/libholdfast.so* "$work/usr/lib"
status=0
"$work/usr/bin/holdfast" run -- sh -c 'echo "$LD_PRELOAD"' >"$work/out" 2>"$work/err" || status=$?
status_is 0 "installed"
[ "$(cat "$work/out")" = "$work/usr/lib/libholdfast-malloc.so" ] || fail "the drop-in was not found in ../lib"
# What is preloaded already stays, behind.
LD_PRELOAD=libdl.so.2 "$holdfast" run -- sh -c 'echo "$LD_PRELOAD"' >"$work/out" 2>"$work/err"
[ "$(cat "$work/out")" = "$build/libholdfast-malloc.so:libdl.so.2" ] || fail "LD_PRELOAD: $(cat "$work/out")"
