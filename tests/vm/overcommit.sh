#!/bin/sh
# Strict overcommit: the kernel counts every writable private page that could be touched, and refuses beyond CommitLimit.
. /vm-lib.sh
echo 2 >/proc/sys/vm/overcommit_memory
in_group=

meminfo_mib() {
	echo $(($(sed -n "s/^$1: *\([0-9]*\) kB/\1/p" /proc/meminfo) >> 10))
}

start "$holdfast" run --budget 400M -- "$hog"
say -0
check "a program starts under strict overcommit" [ "$answer" = "held 0" ]
before=$(meminfo_mib Committed_AS)
say +100
check "and holds 100 MiB" [ "$answer" = "held 100" ]
grown=$(($(meminfo_mib Committed_AS) - before))
check "the kernel counts about what is held" between 99 "$grown" 106
say -0
left=$(($(meminfo_mib Committed_AS) - before))
check "and what was freed no longer" between -1 "$left" 10
finish
check "it ends as it wants to" [ "$status" -eq 0 ]

limit=$(meminfo_mib CommitLimit)
start "$holdfast" run --budget unlimited -- "$hog"
say +$((limit + 100))
check "past CommitLimit it is told no" between $((limit / 2)) "$(number no "$answer")" "$limit"
say -0
say +50
check "and lives on" [ "$answer" = "held 50" ]
finish
check "to its own end" [ "$status" -eq 0 ]

done_checking
