#!/bin/bash
# ps, stat, stat --json, stat --prometheus.
. "$(dirname "$0")/command_lib.sh"
command -v jq >/dev/null || skip "needs jq"

name=out-$$
start_hog "$holdfast" run --ledger "$name" --budget 64M -- "$hog"
say +20
"$holdfast" ps >"$work/out" 2>"$work/err"
grep -q "^$name: 2[0-9.]*M committed of 64.0M (as given), peak 2[0-9.]*M, 1 process, 0 refused, keeper $pid$" "$work/out" ||
	fail "ps: no line of the ledger"
sed -n "/^$name:/,/^\$/p" "$work/out" >"$work/section" # others may be running
grep -q "^ *[0-9]* *command_hog *2[0-9.]*M " "$work/section" || fail "ps: no line of the process"
[ "$(grep -c "^$name:" "$work/out")" = 1 ] || fail "ps lists it twice"
member=$(sed -n 's/^ *\([0-9]*\) *command_hog .*/\1/p' "$work/section")

"$holdfast" stat "$member" >"$work/out"
grep -q "^ledger $name$" "$work/out" || fail "stat PID"
grep -q '^  limit  *64.0M  as given' "$work/out" || fail "stat PID: limit"
"$holdfast" stat "$pid" >"$work/out"
grep -q "^ledger $name$" "$work/out" || fail "stat PID of the keeper"
"$holdfast" stat >"$work/out"
grep -q "^ledger $name$" "$work/out" || fail "stat without PID"

# What is resident follows within a second.
resident() {
	[ "$("$holdfast" stat "$member" --json | jq '.ledgers[0].processes[0].resident_bytes')" -ge $((20 << 20)) ]
}
wait_until 5 resident || fail "the resident bytes are not known"

"$holdfast" stat "$member" --json >"$work/out"
jq -e --arg name "$name" --argjson pid "$member" --argjson keeper "$pid" '
	(.ledgers | length) == 1 and (.ledgers[0] |
	.name == $name and .limit_bytes == 67108864 and .automatic == false and .limit_source == "as given" and
	.committed_bytes >= 20971520 and .committed_bytes <= 67108864 and .peak_bytes >= .committed_bytes and
	.refusals == 0 and .keeper_pid == $keeper and (.identity | test("^[0-9a-f]{16}$")) and
	(.processes | length) == 1 and (.processes[0] | .pid == $pid and .command == "command_hog" and .committed_bytes >= 20971520))
' "$work/out" >/dev/null || fail "JSON"
"$holdfast" stat --json | jq -e . >/dev/null || fail "JSON of all"

"$holdfast" stat "$member" --prometheus >"$work/out"
grep -q "^holdfast_limit_bytes{ledger=\"[0-9a-f]*\",name=\"$name\"} 67108864$" "$work/out" || fail "prometheus: limit"
grep -q "^holdfast_process_committed_bytes{ledger=\"[0-9a-f]*\",name=\"$name\",pid=\"$member\",uid=\"$(id -u)\",command=\"command_hog\"} 2[0-9]*$" \
	"$work/out" || fail "prometheus: process"
# Every line is a comment or a sample; every sample's metric was declared before; counters end in _total.
awk '
	/^# HELP / { help[$3] = 1; next }
	/^# TYPE / { if (!help[$3] || ($4 != "gauge" && $4 != "counter")) exit 1; type[$3] = $4; next }
	/^[a-z_]+{[a-z]+="([^"\\]|\\.)*"(,[a-z]+="([^"\\]|\\.)*")*} ([0-9]+(\.[0-9]+)?|\+Inf)$/ {
		metric = $0; sub(/{.*/, "", metric)
		if (!type[metric] || (type[metric] == "counter") != (metric ~ /_total$/)) exit 1
		samples++; next
	}
	{ print "bad line: " $0; exit 1 }
	END { if (samples < 10) exit 1 }
' "$work/out" || fail "prometheus: format"
finish_hog

# Names that would break a format.
cp "$hog" "$work/a\"b\\c"
start_hog "$holdfast" run --budget unlimited -- "$work/a\"b\\c"
say +1
"$holdfast" stat "$pid" --json | jq -e '.ledgers[0] | .limit_bytes == null and .processes[0].command == "a\"b\\c"' >/dev/null ||
	fail "JSON: quoting"
"$holdfast" stat "$pid" --prometheus >"$work/out"
grep -qF 'command="a\"b\\c"}' "$work/out" || fail "prometheus: quoting"
grep -q '^holdfast_limit_bytes{.*} +Inf$' "$work/out" || fail "prometheus: no limit"
finish_hog
cp "$hog" "$work/$(printf 'x\033\377y')"
start_hog "$holdfast" run -- "$work/$(printf 'x\033\377y')"
say +1
"$holdfast" stat "$pid" --json | jq -e '.ledgers[0].processes[0].command == "x??y"' >/dev/null || fail "JSON: control characters"
"$holdfast" ps >"$work/out"
grep -q 'x??y' "$work/out" || fail "ps: control characters"
finish_hog

# stat of one that is in nothing.
run stat $$
status_is 125 "a process without a budget"
says 'is not under a budget (start it with: holdfast run'

# A pipe that is closed is an error, not a silence.
status=0
"$holdfast" stat --prometheus >/dev/full 2>/dev/null || status=$?
[ $status -ne 0 ] || fail "a full disk was not noticed"
