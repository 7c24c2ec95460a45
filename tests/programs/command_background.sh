#!/bin/bash
# When the program ends before what it has started: the keeper goes on in the background until the last has left.
. "$(dirname "$0")/command_lib.sh"

name=bg-$$
cat >"$work/daemon" <<'END'
#!/bin/sh
# Daemonises a hog that holds 20 MiB until the fifo says otherwise.
mkfifo "$2/stop"
(setsid sh -c '{ echo +20; read -r line <"$2/stop"; } | "$1" >"$2/held"' sh "$1" "$2" >/dev/null 2>&1 </dev/null &)
until grep -q held "$2/held" 2>/dev/null; do sleep 0.05; done
exit 9
END
chmod +x "$work/daemon"
# The output's end is seen although the keeper goes on: it holds no pipe of the caller's.
status=0
text=$("$holdfast" run --ledger "$name" --budget 64M --stats -- "$work/daemon" "$hog" "$work" 2>&1) || status=$?
status_is 9 "the program's status"
echo "$text" >"$work/err"
says 'at the end .* go on$'
[ "$(sed -n 's/^no //p' "$work/held")" = "" ] || fail "the daemon could not hold its memory"
keeper=$("$holdfast" ps | sed -n "s/^$name: .*keeper \([0-9]*\)$/\1/p")
[ -n "$keeper" ] || fail "there is no keeper"
[ "$(readlink "/proc/$keeper/fd/0" "/proc/$keeper/fd/1" "/proc/$keeper/fd/2" | sort -u)" = /dev/null ] || fail "it has not let go of its terminal"
[ "$(ps -o sid= -p "$keeper" | tr -d ' ')" = "$keeper" ] || fail "it has no session of its own"
"$holdfast" ps | grep -q "^$name: 2[0-9.]*M committed of 64.0M" || fail "what the daemon holds is not counted"
# It still lets in, and still keeps the budget.
run run --ledger "$name" -- sh -c "echo +60 | '$hog'"
grep -q '^no ' "$work/out" || fail "the budget is not kept: $(cat "$work/out")"
echo >"$work/stop"
wait_until 10 gone "$keeper" || fail "the keeper does not end with the last process"
"$holdfast" ps >"$work/out"
! grep -q "^$name:" "$work/out" || fail "the ledger is still there"

# Killed at the worst moment, what it held comes back within a second.
start_hog "$holdfast" run --ledger "$name" --budget 64M -- sh -c "'$hog' & wait"
exec 3>&- 4<&-
wait "$pid" || true
rm -f "$work/to" "$work/from"
cat >"$work/killed" <<'END'
#!/bin/sh
for i in 1 2 3; do
	{ echo +50; sleep 5; } | "$1" >"$2/held$i" &
	until grep -q held "$2/held$i"; do sleep 0.05; done
	kill -9 $!
	sleep 1
done
END
chmod +x "$work/killed"
run run --budget 64M -- "$work/killed" "$hog" "$work"
for i in 1 2 3; do
	[ "$(cat "$work/held$i")" = "held 50" ] || fail "round $i: $(cat "$work/held$i")"
done
