#!/bin/sh
# A budget of `auto` against a memory cgroup of 64 MiB, version 1 or 2 (whichever is mounted).
. /vm-lib.sh

# What is held under a limit must come near it: the margin, and what is kept for an overdraft, are the difference.
near_64="38 64"
in_group=plain
group plain 64
start "$hog"
say +100
finish
check "without a budget the kernel kills the program" [ "$status" -eq 137 ]
check "and says so" [ "$(kills plain)" -eq 1 ]

in_group=told
group told 64
start "$holdfast" run --budget auto -- "$hog"
say +100
check "with a budget it is told no" between ${near_64% *} "$(number no "$answer")" ${near_64#* }
say '?'
check "what it holds is intact" [ "$(number intact "$answer")" -gt 0 ]
say -0
check "it goes on: frees" [ "$answer" = "held 0" ]
say +30
check "and holds again" [ "$answer" = "held 30" ]
finish
check "and ends as it wants to" [ "$status" -eq 0 ]
check "the kernel has killed nobody" [ "$(kills told)" -eq 0 ]

in_group=moving
group moving 64
start "$holdfast" run --budget auto -- "$hog"
say +20
check "20 of 64 MiB are held" [ "$answer" = "held 20" ]
group moving 128
sleep 1
say +60
check "a raised limit is followed within a second" [ "$answer" = "held 80" ]
say -60
group moving 48
sleep 1
say +60
check "a lowered limit is followed within a second" between 20 "$(number no "$answer")" 48
finish
check "that program ends as it wants to" [ "$status" -eq 0 ]
check "and nobody was killed" [ "$(kills moving)" -eq 0 ]

in_group=above/inner
group above 48
group above/inner 512
start "$holdfast" run --budget auto -- "$hog"
say +100
check "a tighter limit of an ancestor counts" between 24 "$(number no "$answer")" 48
finish
check "with nobody killed" [ "$(kills above)$(kills above/inner)$status" = 000 ]

in_group=cache
group cache 64
exec 5</dev/vda # the kernel drops a device's pages when nobody has it open
enter cache cat /dev/vda >/dev/null
check "a file that was read fills the group" [ "$(cache_mib cache)" -ge 40 ]
start "$holdfast" run --budget auto -- "$hog"
say +100
check "clean page cache does not shrink the budget" between ${near_64% *} "$(number no "$answer")" ${near_64#* }
finish
check "nor is anybody killed for it" [ "$(kills cache)$status" = 00 ]

# Four at once under one budget, each to the end and again: together they stay under the limit.
in_group=four
group four 64
four() {
	enter four "$holdfast" run --budget auto -- sh -c '
		for i in 1 2 3 4; do
			printf "+60\n?\n-0\n+60\n?\n" | "$0" || echo failed &
		done
		wait' "$hog"
}
answers=$(four)
check "of four programs at one limit none fails" [ "$(echo "$answers" | grep -c -e failed -e damaged)" -eq 0 ]
check "each holds what it got, if anything" [ "$(echo "$answers" | grep -c '^intact ')" -eq 8 ]
check "some are told no" [ "$(echo "$answers" | grep -c '^no ')" -gt 0 ]
check "and the kernel kills none" [ "$(kills four)" -eq 0 ]

done_checking
