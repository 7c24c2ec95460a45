#!/bin/bash
# --budget auto in a real memory cgroup of 64 MiB on this machine, v1 or v2. (tests/vm does both on its own kernel.)
. "$(dirname "$0")/command_lib.sh"

# Where a group can be made: below our own, or below the root.
own_v1=$(sed -n 's/^[0-9]*:[^:]*\bmemory\b[^:]*://p' /proc/self/cgroup)
own_v2=$(sed -n 's/^0:://p' /proc/self/cgroup)
group=
for above in "/sys/fs/cgroup/memory$own_v1" /sys/fs/cgroup/memory "/sys/fs/cgroup$own_v2" /sys/fs/cgroup; do
	[ -d "$above" ] && mkdir "$above/holdfast-test-$$" 2>/dev/null || continue
	group=$above/holdfast-test-$$
	[ -e "$group/memory.limit_in_bytes" ] || [ -e "$group/memory.max" ] && break
	rmdir "$group"
	group=
done
[ -n "$group" ] || skip "needs the right to make a memory cgroup"
if [ -e "$group/memory.max" ]; then
	limit=memory.max usage=memory.current
else
	limit=memory.limit_in_bytes usage=memory.usage_in_bytes
fi
leave() {
	exec 3>&- 4<&- 5>&- # whoever still listens ends
	rm -rf "$work"
	wait_until 5 rmdir "$group" 2>/dev/null || echo "note: $group is left behind" >&2
}
trap leave EXIT
echo 64M >"$group/$limit"

in_group() {
	bash -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" "$@"
}
kills() {
	sed -n 's/^oom_kill //p' "$group/memory.events" "$group/memory.oom_control" 2>/dev/null
}
limit_now() {
	"$holdfast" stat --prometheus "$(head -n 1 "$group/cgroup.procs")" | sed -n 's/^holdfast_limit_bytes{.*} //p'
}
mib=1048576

# Near the limit, useful, and nobody is killed.
start_hog in_group "$holdfast" run --stats -- "$hog"
say +100
total=${answer#no }
[ "$total" != "$answer" ] || fail "100 MiB were held in 64: $answer"
[ "$total" -ge 48 ] || fail "only $total MiB of 64 could be held"
say '?'
[ "$answer" = "intact $total" ] || fail "damaged: $answer"
say -0
say +40
[ "$answer" = "held 40" ] || fail "after freeing: $answer"
finish_hog
status_is 0 "in the cgroup"
says "^  limit .*cgroup v[12] .*holdfast-test-$$, 64.0M"
[ "$(kills)" = 0 ] || fail "the kernel has killed"

# Clean page cache does not shrink it: a file as large as the group is read there first.
dd if=/dev/zero of="$work/file" bs=1M count=100 status=none
sync "$work/file"
# Charged to the reader, not to us who have written it.
dd of="$work/file" oflag=nocache conv=notrunc,fdatasync count=0 status=none
in_group cat "$work/file" >/dev/null
cached=$(sed -n 's/^\(total_inactive_file\|total_active_file\|inactive_file\|active_file\) //p' "$group/memory.stat" | sort -n | tail -1)
[ "$cached" -ge $((30 * mib)) ] || echo "note: only $((cached / mib)) MiB of page cache are charged here"
before=$(cat "$group/$usage")
start_hog in_group "$holdfast" run -- "$hog"
say +100
total=${answer#no }
[ "$total" -ge 48 ] || fail "with $((before / mib)) MiB of page cache only $total MiB could be held"
finish_hog
[ "$(kills)" = 0 ] || fail "the kernel has killed"

# A changed limit is followed within a second, up and down.
start_hog in_group "$holdfast" run -- "$hog"
say +10
follows() {
	now=$(limit_now)
	[ "$now" -ge "$1" ] && [ "$now" -le "$2" ]
}
for size in 128 40 64; do
	echo ${size}M >"$group/$limit"
	start=$(date +%s%N)
	wait_until 3 follows $((size * mib * 3 / 4 - 2 * mib)) $((size * mib)) || fail "$size MiB: the limit is $(limit_now)"
	took=$((($(date +%s%N) - start) / 1000000))
	# A second, and what asking takes on a busy machine.
	[ $took -le 1500 ] || fail "$size MiB: followed after $took ms"
done
finish_hog

# Memory outside the heaps counts: a neighbour holds 30 MiB that no ledger knows.
mkfifo "$work/neighbour"
in_group "$hog" <"$work/neighbour" >"$work/held" &
exec 5>"$work/neighbour"
echo +30 >&5
wait_until 10 grep -q held "$work/held" || fail "the neighbour"
start_hog in_group "$holdfast" run -- "$hog"
say +100
total=${answer#no }
[ "$total" -ge 15 ] && [ "$total" -le 32 ] || fail "beside 30 MiB: $answer"
finish_hog
exec 5>&-
wait
[ "$(kills)" = 0 ] || fail "the kernel has killed"
