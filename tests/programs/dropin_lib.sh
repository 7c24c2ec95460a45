# shellcheck shell=sh
# For the tests of the drop-in. HOLDFAST_BUILD is the build directory; $work is removed at the end.
set -eu
build=${HOLDFAST_BUILD:?the build directory}
preload=$build/libholdfast-malloc.so
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

unset HOLDFAST HOLDFAST_LEDGER LD_PRELOAD

fail() {
	echo "FAILED: $*" >&2
	exit 1
}

# skip_without PROGRAM...: exit status 77 is "skipped" to CTest.
skip_without() {
	for program in "$@"; do
		command -v "$program" >/dev/null || {
			echo "skipped: needs $program"
			exit 77
		}
	done
}

# with_holdfast COMMAND...: unmodified, over the drop-in, with a budget of its own for each process.
with_holdfast() {
	env LD_PRELOAD="$preload" HOLDFAST="budget=${budget:-512M}" "$@"
}

# same COMMAND...: standard output and status are as with the C library's malloc, and standard error has no word of ours.
same() {
	plain=0
	"$@" >"$work/plain.out" 2>"$work/plain.err" || plain=$?
	ours=0
	with_holdfast "$@" >"$work/ours.out" 2>"$work/ours.err" || ours=$?
	[ "$plain" = "$ours" ] || {
		tail -5 "$work/ours.err" >&2
		fail "$*: status $ours, $plain without Holdfast"
	}
	cmp "$work/plain.out" "$work/ours.out" || fail "$*: the output differs"
	if grep -q holdfast "$work/ours.err"; then
		cat "$work/ours.err" >&2
		fail "$*: a message of ours"
	fi
	[ -s "$work/plain.out" ] || fail "$*: no output: proves nothing"
}
