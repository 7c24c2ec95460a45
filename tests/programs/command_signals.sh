#!/bin/bash
# Signals are passed on to the program; it is reaped, and so are the orphans that it leaves; stops are followed.
. "$(dirname "$0")/command_lib.sh"

cat >"$work/listener" <<'END'
#!/bin/bash
for name in HUP INT QUIT TERM USR1 USR2 ALRM WINCH TSTP; do
	trap "echo $name; exit 0" $name
done
echo ready
while :; do
	read -t 0.05 <> <(:) || :
done
END
chmod +x "$work/listener"

is_ready() {
	grep -q ready "$work/out"
}

for name in HUP INT QUIT TERM USR1 USR2 ALRM WINCH TSTP; do
	# As a job of its own, so that bash does not start it with SIGINT ignored.
	(set -m; exec "$holdfast" run -- "$work/listener" >"$work/out" 2>"$work/err" & echo $! >"$work/pid"; wait $!)  &
	wait_until 10 test -s "$work/pid" || fail "$name: not started"
	wait_until 10 is_ready || fail "$name: not ready"
	kill -"$name" "$(cat "$work/pid")"
	wait_until 10 gone "$(cat "$work/pid")" || fail "$name: still there"
	wait
	grep -q "^$name$" "$work/out" || fail "$name was not passed on"
	rm -f "$work/out" "$work/pid"
done

# A signal that the program does not catch ends it, and is told.
"$holdfast" run -- sleep 100 >"$work/out" 2>"$work/err" &
pid=$!
wait_until 10 pgrep -P $pid -x sleep >/dev/null || fail "sleep was not started"
kill -TERM $pid
status=0
wait $pid || status=$?
status_is 143 "SIGTERM"

# Stopped and continued with the program.
state_of() {
	sed 's/.*) //; s/ .*//' "/proc/$1/stat"
}
is_state() {
	[ "$(state_of "$1")" = "$2" ]
}
set -m # a stopped job must not be an orphaned process group, or the kernel ignores the stop
"$holdfast" run -- sleep 100 >"$work/out" 2>"$work/err" &
pid=$!
wait_until 10 pgrep -P $pid -x sleep >/dev/null || fail "sleep was not started"
child=$(pgrep -P $pid -x sleep)
kill -TSTP $pid
wait_until 10 is_state "$child" T || fail "SIGTSTP did not stop the program"
wait_until 10 is_state $pid T || fail "the launcher did not stop with it"
kill -CONT $pid
wait_until 10 is_state "$child" S || fail "SIGCONT did not continue the program"
# The program alone: its keeper must go on.
kill -STOP "$child"
wait_until 10 is_state "$child" T || fail "SIGSTOP"
sleep 0.3
! is_state $pid T || fail "the keeper stopped with one process"
kill -CONT "$child"
kill -TERM $pid
status=0
wait $pid || status=$?
status_is 143 "SIGTERM after a stop"
set +m

# Orphans are reaped: no zombie of theirs stays while the program goes on.
"$holdfast" run -- sh -c '(sh -c "sleep 0.1; exit 3" &) ; sleep 2' &
pid=$!
zombies() {
	ps -o stat= --ppid $pid | grep -c Z || true
}
sleep 1
[ "$(zombies)" = 0 ] || fail "there are zombies"
wait $pid

# Signals that the caller has blocked or ignored are so in the program too.
(
	trap '' USR1
	"$holdfast" run -- grep SigIgn /proc/self/status
) >"$work/out"
[ $((0x$(sed 's/.*\t//' "$work/out") >> 9 & 1)) = 1 ] || fail "SIGUSR1 is not ignored any more"
"$holdfast" run -- grep SigBlk /proc/self/status >"$work/out"
[ $((0x$(sed 's/.*\t//' "$work/out"))) = 0 ] || fail "signals are blocked: $(cat "$work/out")"

# On a terminal ^C reaches the program once: from the terminal, and not again from us.
if command -v script >/dev/null; then
	cat >"$work/counter" <<'END'
#!/bin/bash
trap 'echo SIG-INT' INT
echo ready
for i in {1..30}; do
	read -t 0.05 <> <(:) || :
done
END
	chmod +x "$work/counter"
	rm -f "$work/out"
	mkfifo "$work/keys"
	set -m # or the shell starts it with SIGINT ignored
	script -qec "$holdfast run -- $work/counter" /dev/null <"$work/keys" >"$work/out" 2>&1 &
	set +m
	exec 6>"$work/keys"
	wait_until 10 is_ready || fail "not ready on a terminal"
	printf '\003' >&6
	wait
	exec 6>&-
	[ "$(grep -c SIG-INT "$work/out")" = 1 ] || fail "^C came $(grep -c SIG-INT "$work/out") times"
fi
