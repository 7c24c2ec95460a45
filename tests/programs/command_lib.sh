# For the tests of the command `holdfast`. HOLDFAST_BUILD is the build directory; $work is removed at the end.
set -eu
build=${HOLDFAST_BUILD:?the build directory}
holdfast=$build/holdfast
hog=$build/tests/command_hog # holds memory as it is told; see tests/vm/hog.c
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

unset HOLDFAST HOLDFAST_LEDGER LD_PRELOAD

fail() {
	echo "FAILED: $*" >&2
	for file in "$work"/err "$work"/out; do
		[ -s "$file" ] && sed "s|^|  ${file##*/}: |" "$file" >&2
	done
	exit 1
}

skip() {
	echo "skipped: $*"
	exit 77
}

# run ARGUMENT...: holdfast with these; sets $status, and leaves $work/out and $work/err.
run() {
	status=0
	"$holdfast" "$@" >"$work/out" 2>"$work/err" || status=$?
}

# status_is STATUS WHAT
status_is() {
	[ "$status" -eq "$1" ] || fail "$2: status $status, not $1"
}

# says PATTERN: standard error has such a line
says() {
	grep -q -- "$1" "$work/err" || fail "standard error does not say \"$1\""
}

# wait_until SECONDS TEST...: tries again until TEST holds
wait_until() {
	tries=$(($1 * 20))
	shift
	until "$@"; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || return 1
		sleep 0.05
	done
}

# gone PID
gone() {
	! kill -0 "$1" 2>/dev/null
}

# start_hog COMMAND...: a program to talk to; sets $pid.
start_hog() {
	mkfifo "$work/to" "$work/from"
	"$@" <"$work/to" >"$work/from" 2>"$work/err" &
	pid=$!
	exec 3>"$work/to" 4<"$work/from"
}

# say COMMAND: sets $answer
say() {
	answer=
	echo "$1" >&3
	read -r answer <&4 || true
}

# finish_hog: sets $status
finish_hog() {
	exec 3>&- 4<&-
	status=0
	wait "$pid" || status=$?
	rm -f "$work/to" "$work/from"
}
