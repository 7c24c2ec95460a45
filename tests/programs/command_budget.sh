#!/bin/sh
# The budget holds: also over a tree of processes, by name, and inside one another.
. "$(dirname "$0")/command_lib.sh"

start_hog "$holdfast" run --budget 64M -- "$hog"
say +100
total=${answer#no }
[ "$total" != "$answer" ] || fail "64M gave $answer"
[ "$total" -ge 56 ] && [ "$total" -le 64 ] || fail "64M gave $total MiB"
say '?'
[ "$answer" = "intact $total" ] || fail "damaged: $answer"
say -0
[ "$answer" = "held 0" ] || fail "freeing: $answer"
say +50
[ "$answer" = "held 50" ] || fail "after freeing: $answer"
finish_hog
status_is 0 "the hog"

# One budget for all below. The second starts while the first holds its memory.
cat >"$work/two" <<'END'
#!/bin/sh
exec 9>&1
{ echo +40; echo '?'; sleep 2; } | "$1" >"$2/first" &
until grep -q held "$2/first"; do sleep 0.05; done
echo +40 | "$1"
wait
END
chmod +x "$work/two"
run run --budget 64M -- "$work/two" "$hog" "$work"
status_is 0 "two"
grep -q '^no ' "$work/out" || fail "two processes of 40 MiB fit into 64M"
grep -q '^intact 40' "$work/first" || fail "the first was not left alone"

# Inside one another: joined without --budget.
run run --budget 64M -- "$holdfast" run --stats -- sh -c "echo +100 | '$hog'"
status_is 0 "joined"
total=$(sed -n 's/^no //p' "$work/out")
[ "$total" -ge 56 ] && [ "$total" -le 64 ] || fail "joined: $total MiB of 64"
says 'joined: the figures are of all'
says '  limit  *64.0M'
# A smaller inner one is what counts inside, and the outer counts it too.
run run --budget 64M --ledger "outer-$$" -- "$holdfast" run --budget 32M -- sh -c "echo +100 | '$hog'; '$holdfast' ps >'$work/ps'"
status_is 0 "smaller"
total=$(sed -n 's/^no //p' "$work/out")
[ "$total" -ge 24 ] && [ "$total" -le 32 ] || fail "inner 32M: $total MiB"
[ "$(grep -c ' committed of ' "$work/ps")" -ge 2 ] || fail "the two ledgers are not listed: $(cat "$work/ps")"
# A larger one is bounded by the outer, and says so.
run run --budget 32M -- "$holdfast" run --budget 64M -- sh -c "echo +100 | '$hog'"
status_is 0 "larger"
says 'budget 64.0M is more than the 32.0M of the budget around it'
total=$(sed -n 's/^no //p' "$work/out")
[ "$total" -ge 24 ] && [ "$total" -le 32 ] || fail "inner 64M in 32M: $total MiB"
# Four inside one another; a fifth is refused.
h=$holdfast
run run --budget 60M -- "$h" run --budget 50M -- "$h" run --budget 40M -- "$h" run --budget 30M -- true
status_is 0 "four"
run run --budget 60M -- "$h" run --budget 50M -- "$h" run --budget 40M -- "$h" run --budget 30M -- "$h" run --budget 20M -- true
status_is 125 "five"
says 'four inside one another are the most'

# By name: the second joins the first, and is told so if it wants a budget of its own.
name=test-$$
start_hog "$holdfast" run --ledger "$name" --budget 64M -- "$hog"
say +40
run run --ledger "$name" -- sh -c "echo +40 | '$hog'"
status_is 0 "joined by name"
grep -q '^no ' "$work/out" || fail "joined by name: $(cat "$work/out")"
run run --ledger "$name" --budget 64M -- true
status_is 125 "a name that is taken"
says "the ledger $name exists already: leave --budget out to join it"
finish_hog

# Percentages and no limit.
run run --budget 50% --stats -- true
status_is 0 "50%"
run run --budget unlimited --stats -- sh -c "echo +100 | '$hog'"
status_is 0 "unlimited"
says '  limit  *none'
[ "$(cat "$work/out")" = "held 100" ] || fail "unlimited: $(cat "$work/out")"

# A program that closes every descriptor and has lost the ledger's is let in by the keeper; so is one of another user.
run run --budget 64M -- bash -c "for fd in /proc/\$\$/fd/*; do fd=\${fd##*/}; [ \$fd -le 2 ] || eval \"exec \$fd>&-\"; done; echo +100 | '$hog'"
total=$(sed -n 's/^no //p' "$work/out")
[ "${total:-0}" -ge 56 ] && [ "$total" -le 64 ] || fail "descriptors closed: $(cat "$work/out" "$work/err")"
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	chmod 755 "$work"
	cp "$hog" "$work/hog"
	# Where another user can read it, wherever the build directory is.
	cp "$holdfast" "$build/libholdfast-malloc.so" "$work"
	cp -P "$build"/libholdfast.so* "$work"
	status=0
	"$work/holdfast" run --budget 64M -- setpriv --reuid=65534 --regid=65534 --clear-groups sh -c "echo +100 | '$work/hog'" \
		>"$work/out" 2>"$work/err" || status=$?
	total=$(sed -n 's/^no //p' "$work/out")
	[ "${total:-0}" -ge 56 ] && [ "$total" -le 64 ] || fail "another user: $(cat "$work/out" "$work/err")"
fi
