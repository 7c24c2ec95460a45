#!/bin/bash
# --stats: one screen that says what happened; --stats-file; programs that are not covered are named.
. "$(dirname "$0")/command_lib.sh"

run run --budget 64M --stats -- sh -c "echo +100 | '$hog'"
status_is 0 "stats"
says '^holdfast: budget '
says '^  limit  *64.0M  as given$'
says '^  peak  *6[0-4]\.[0-9]M  9[0-9]% of the limit$\|^  peak  *64.0M  100% of the limit$'
says '^  at the end '
says '^  outside  *-  not counted'
says '^  refused  *[1-9][0-9]*  requests; [0-9.]* s at the limit$'
says '^  *[1-9][0-9]*  command_hog\[[0-9]*\] (ended), the last for 64K$'
[ "$(wc -l <"$work/err")" -le 24 ] || fail "more than a screen"
[ "$(cat "$work/out" | wc -l)" = 1 ] || fail "it is on standard output"

run run --stats -- true
says '^  outside  *[0-9.]*[KMGT]*  at most'
says '^  margin  *[0-9.]*M  at most'

run run --budget 64M --stats-file "$work/stats" -- sh -c 'exit 3'
status_is 3 "stats-file"
[ ! -s "$work/err" ] || fail "it is on standard error too"
grep -q '^  peak ' "$work/stats" || fail "nothing in the file"
run run --stats-file "$work/none/stats" -- sh -c 'exit 3'
status_is 3 "a file that cannot be written"
says "--stats-file $work/none/stats cannot be written: No such file"

# What is not covered: said at once for the program itself, found by sampling for what it starts.
if command -v busybox >/dev/null && ! ldd "$(command -v busybox)" >/dev/null 2>&1; then
	run run -- busybox true
	status_is 0 "a static program is run all the same"
	says "warning: 'busybox' will not be covered by the budget: it is statically linked"
	run run --stats -- busybox true
	says '^  uncovered  *1  busybox: it is statically linked$'
	run run --stats -- sh -c 'busybox sleep 1; :'
	says '^  uncovered  *1  busybox: it is statically linked$'
	printf '#!%s sh\nexit 5\n' "$(command -v busybox)" >"$work/script"
	chmod +x "$work/script"
	run run -- "$work/script"
	status_is 5 "a script"
	says "script' will not be covered by the budget: it is statically linked"
else
	echo "note: without a static busybox, static programs were not tried"
fi
run run --stats -- sh -c 'env -i sleep 2; :'
says '^  uncovered  *1  sleep: it was started without LD_PRELOAD$'
run run --stats -- sh -c 'sleep 1.2; :'
! grep -q uncovered "$work/err" || fail "a covered program is called uncovered"
# One that has lost the descriptor and, in another network, cannot reach the keeper.
if unshare -n true 2>/dev/null; then
	run run --stats -- bash -c 'for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ $fd -le 2 ] || eval "exec $fd>&-"; done
		unshare -n sleep 1; :'
	says '^holdfast: process [0-9]* is not covered by the ledger'
	says '^  uncovered  *1  sleep: it could not reach the budget, and has one of its own$'
fi
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	cp "$(command -v sleep)" "$work/sleep"
	chown 1 "$work/sleep"
	chmod 4755 "$work/sleep"
	run run -- "$work/sleep" 0
	says "it is setuid or setgid"
fi
